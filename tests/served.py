"""``manage.py serve`` as an operator runs it: another process, a database of its own, commands beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.identity_helpers import SECRET

ROOT = Path(__file__).resolve().parent.parent

CONFIGURATION = """
[[backend]]
name = "main"
url = "http://127.0.0.1:{port}"
[[route]]
path = "/api/"
kind = "http"
backend = "main"
[[route]]
path = "/ws"
kind = "websocket"
backend = "main"
"""
"""A backend on a port of this machine, requests below /api/ and WebSockets at /ws."""

Line = dict[str, Any]


class Site:
    """A directory with a database, and the environment that belongs to it."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONDEVMODE": os.environ.get("PYTHONDEVMODE", ""),
            "SECRET_KEY": "tests-only-tests-only-tests-only-tests-only-tests-only",
            "ALLOWED_HOSTS": "*",
            "JWT_SECRET": SECRET,
            "DATABASE_URL": f"sqlite:///{directory}/gateway.sqlite3",
            "LOG_FORMAT": "json",
            "DRAIN_SECONDS": "2",
        } | environment

    def command(self, *args: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a management command to its end."""
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *args],
            env=self.environment | environment,
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def migrate(self) -> None:
        done = self.command("migrate", "--verbosity", "0")
        assert done.returncode == 0, done.stderr

    def configure(self, toml: str, *options: str) -> None:
        """Apply a configuration; a running gateway has it within a second."""
        done = self.command("import_config", "-", *options, stdin=toml)
        assert done.returncode == 0, done.stderr


class Server:
    """A running ``serve`` (or another server), and every line that it wrote so far."""

    def __init__(self, argv: list[str], site: Site, port: int) -> None:
        self.port = port
        self.lines: list[Line] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            argv, env=site.environment, cwd=site.directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"event": "", "text": text.rstrip()}
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append({"event": "eof"})
            self._news.notify_all()

    def wait_for(self, wanted: Callable[[Line], bool] | str, timeout: float = 30) -> Line:
        """The first line, so far or to come, that is wanted (or the event of that name)."""
        predicate = (lambda line: line.get("event") == wanted) if isinstance(wanted, str) else wanted
        end = time.monotonic() + timeout
        with self._news:
            while True:
                for line in self.lines:
                    if predicate(line):
                        return line
                ended = bool(self.lines) and self.lines[-1].get("event") == "eof"
                if ended or not self._news.wait(max(0.0, end - time.monotonic())):
                    raise AssertionError(f"{wanted} did not come; the last lines: {self.lines[-8:]}")

    def stop(self, sign: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        """Send a signal, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            status = self.process.wait(timeout)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(5)
            if self.process.stdout is not None:
                self.process.stdout.close()
        return status


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(site: Site, *options: str, argv: list[str] | None = None) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        argv: Of another server than ``serve``; ``{port}`` in it is replaced.
    """
    port = free_port()
    command = [sys.executable, str(ROOT / "manage.py"), "serve", "-p", "{port}", *options] if argv is None else argv
    server = Server([word.replace("{port}", str(port)) for word in command], site, port)
    try:
        end = time.monotonic() + 30
        while not accepts(port):
            if server.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"it does not listen: {server.lines}")
            with server._news:
                server._news.wait(0.05)
        yield server
    finally:
        server.stop()


def template_site(directory: Path) -> Site:
    """A migrated database to copy."""
    site = Site(directory)
    site.migrate()
    return site


def copy_of(template: Site, directory: Path, **environment: str) -> Site:
    """A site with a fresh copy of a migrated database."""
    shutil.copy(template.directory / "gateway.sqlite3", directory / "gateway.sqlite3")
    return Site(directory, **environment)
