"""Runs the demo as `make run` does: its own processes, ports and data."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 40.0
"""Seconds for a start or an end on a busy machine; a safety net, not the behaviour."""


class Demo:
    """A running demo.

    Attributes:
        port: The gateway's.
        backend_port: As the banner says.
        token: The banner's, of Ada.
        lines: What it printed so far.
    """

    def __init__(self, command: Sequence[str], data: Path, port: int) -> None:
        self.port, self.data = port, data
        self.lines: list[str] = []
        self._fresh: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(data, port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            self._fresh.put(line)
        self._fresh.put(None)

    def line(self, pattern: str) -> str:
        """Wait for a line that has the pattern; return its first group."""
        while (line := self._fresh.get(timeout=PATIENCE)) is not None:
            if found := re.search(pattern, line):
                return found[1]
        raise AssertionError(f"ended before a line had {pattern!r}:\n{''.join(self.lines)}")

    def wait_until_ready(self) -> None:
        self.backend_port = int(self.line(r"Backend +http://127\.0\.0\.1:(\d+)"))
        self.token = self.line(r"TOKEN=(\S+)")

    def wait(self) -> int:
        """Return the exit status; every process that holds its output has ended by then."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), "a child of it lives on"
        return status

    def end(self) -> None:
        """Whatever happened, leave no process and no open pipe behind."""
        self.process.terminate()
        try:
            self.wait()
        except (AssertionError, subprocess.TimeoutExpired):
            for pid in [*descendants(self.process.pid), self.process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.wait()
            raise
        finally:
            assert self.process.stdout
            self.process.stdout.close()

    def child(self, command: str) -> int:
        """Return the process id of the child whose command line has that text."""
        children = descendants(self.process.pid)
        (found,) = (child for child in children if command in Path(f"/proc/{child}/cmdline").read_text())
        return found


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [found for child in map(int, children) for found in (*descendants(child), child)]


def environment(data: Path, port: int) -> dict[str, str]:
    return os.environ | {"DEMO_DATA": str(data), "PORT": str(port), "LOG_FORMAT": "json", "DRAIN_SECONDS": "2"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_demo(data: Path, *command: str) -> Iterator[Demo]:
    """Run the demo by that command, ``python -m demo`` without one, and wait until it greets."""
    demo = Demo(command or (sys.executable, "-m", "demo"), data, free_port())
    try:
        demo.wait_until_ready()
        yield demo
    finally:
        demo.end()
