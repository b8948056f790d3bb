"""Real servers beside the gateway, on loopback, with directories of their own: Redis, PostgreSQL, and balancers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.served import accepts, free_port

STARTING = 30.0
"""Seconds."""


class Daemon:
    """A program in the foreground that listens on a port; its output is kept in a file.

    Args:
        user: That it runs as, where the tests run as root.
        environment: Variables beside our own.
    """

    def __init__(
        self,
        argv: list[str],
        port: int,
        directory: Path,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.argv, self.port, self.directory = argv, port, directory
        self._environment = {**os.environ, **(environment or {})}
        self.output = directory / "output"
        self._user = user if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return as soon as it accepts connections."""
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self.argv, cwd=self.directory, stdout=output, stderr=output, user=self._user, group=self._user,
                env=self._environment,
            )  # fmt: skip
        end = time.monotonic() + STARTING
        while not accepts(self.port):
            try:
                self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                if time.monotonic() < end:
                    continue
            raise AssertionError(f"{self.argv[0]} does not listen: {self.output.read_text()[-2000:]}")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, if it runs."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def program(name: str) -> str:
    """Where a program is: those of a system's administrator are not on everybody's path, PostgreSQL's on nobody's."""
    places = [os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"]
    places += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    found = shutil.which(name, path=os.pathsep.join(places))
    assert found is not None, f"{name} is not installed; .ci/run names the packages"
    return found


@contextmanager
def running(daemon: Daemon, number: signal.Signals = signal.SIGTERM) -> Iterator[Daemon]:
    """A daemon until the block ends; `number` is the signal that ends it soonest."""
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.stop(number)


class Redis(Daemon):
    """Redis, with nothing on disk: when it ends it has forgotten all."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        super().__init__([program("redis-server"), *options], port, directory)
        self.url = f"redis://127.0.0.1:{port}/0"


@contextmanager
def redis(directory: Path) -> Iterator[Redis]:
    """Redis until the block ends."""
    server = Redis(directory)
    with running(server, signal.SIGKILL):
        yield server


class Postgres(Daemon):
    """PostgreSQL with an empty database; it refuses to run as root, and gets a directory that its user can reach."""

    STOP = signal.SIGINT  # cuts its clients ("fast"); SIGTERM would wait for them

    def __init__(self, directory: Path) -> None:
        port = free_port()
        options = ["-D", "data", "-p", str(port), "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
        super().__init__([program("postgres"), *options], port, directory, user="postgres")
        self.url = f"postgres://gateway@127.0.0.1:{port}/postgres"
        if self._user is not None:
            shutil.chown(directory, self._user)
        subprocess.run(
            [program("initdb"), "-D", "data", "-U", "gateway", "--auth=trust", "--no-sync", "--no-instructions"],
            cwd=directory, user=self._user, group=self._user, check=True, capture_output=True,
        )  # fmt: skip


@contextmanager
def postgres() -> Iterator[Postgres]:
    """PostgreSQL until the block ends."""
    with tempfile.TemporaryDirectory(prefix="relay-postgres-") as directory:
        server = Postgres(Path(directory))
        with running(server, signal.SIGQUIT):
            yield server


class Nginx(Daemon):
    """nginx with a configuration of ours; it writes nowhere but into its directory."""

    def __init__(self, directory: Path, port: int, http: str) -> None:
        (directory / "nginx.conf").write_text(
            "daemon off; pid nginx.pid; error_log stderr; events {}\n"
            "http { access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n"
            f"uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n{http}\n}}\n"
        )
        argv = [program("nginx"), "-e", "stderr", "-p", str(directory), "-c", "nginx.conf"]
        super().__init__(argv, port, directory)


class HAProxy(Daemon):
    """HAProxy with a configuration of ours, and the variables that it asks for."""

    def __init__(self, directory: Path, port: int, configuration: str, environment: Mapping[str, str]) -> None:
        (directory / "haproxy.cfg").write_text(configuration)
        super().__init__([program("haproxy"), "-db", "-f", "haproxy.cfg"], port, directory, environment=environment)


class Caddy(Daemon):
    """Caddy with a configuration of ours, without TLS, and without the port that it is administered through."""

    def __init__(self, directory: Path, port: int, configuration: str) -> None:
        (directory / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + configuration)
        home = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(directory))
        super().__init__([program("caddy"), "run", "--config", "Caddyfile"], port, directory, environment=home)
