"""The supervisor and its workers, without Django: a worker here is a few lines of asyncio."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

WORKER = """
import asyncio, os, signal, sys
from relay.server.workers import join

def say(*words):  # in one write: print makes two where Python is unbuffered
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def main():
    stop, signals = asyncio.Event(), 0
    def signalled():
        nonlocal signals
        signals += 1
        if mode != "stubborn" or signals > 1:
            stop.set()
        say("signal")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signalled)
    async def greet(reader, writer):
        writer.write(b"%d" % os.getpid())
        writer.close()
    server = await asyncio.start_server(greet, sock=__import__("socket").socket(fileno=listening))
    say("worker", os.getpid())
    join(supervisor)
    await stop.wait()
    server.close()

mode, listening, supervisor = sys.argv[1], int(sys.argv[2]), int(sys.argv[4])
if mode == "broken":
    say("a bad setting")
    sys.exit(3)
asyncio.run(main())
"""

SUPERVISOR = """
import logging, os, socket, sys
from relay.server import workers

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Handler(logging.Handler):
    def emit(self, record):
        say(record.getMessage())

logging.getLogger().addHandler(Handler())
workers.FIRST_DELAY, workers.GRACE = 0.01, 0.1
mode, count, listening = sys.argv[1], int(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))
supervisor = workers.Supervisor(
    [sys.argv[6], "-c", sys.argv[4], mode, str(listening.fileno())],
    count,
    [listening],
    float(sys.argv[5]),
    on_ready=lambda: say("ready"),
    on_exit=lambda pid: say("gone", pid),
)
try:
    sys.exit(supervisor.run())
except workers.NoWorker as exc:
    sys.exit(f"no worker: {exc}")
"""


class Running:
    """A supervisor; `pids` are those of its workers."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port
        self.lines: list[str] = []
        self.pids: list[int] = []

    async def line(self, wanted: Callable[[str], bool] | str) -> str:
        """The next line that is wanted; those before it are kept."""
        assert self.process.stdout is not None
        while True:
            read = await self.process.stdout.readline()
            assert read, self.lines
            line = read.decode().rstrip()
            self.lines.append(line)
            match line.split():
                case ["worker", pid]:
                    self.pids.append(int(pid))
            if line.startswith(wanted) if isinstance(wanted, str) else wanted(line):
                return line

    async def rest(self) -> tuple[list[str], int]:
        assert self.process.stdout is not None
        lines = (await self.process.stdout.read()).decode().splitlines()
        return lines, await self.process.wait()

    async def who(self) -> int:
        """The worker that answers a connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            return int(await reader.read())
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def supervising(
    mode: str = "", workers: int = 2, drain_seconds: float = 60, interpreter: str = sys.executable
) -> AsyncIterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", SUPERVISOR, mode, str(workers), str(listening.fileno()), WORKER, str(drain_seconds), interpreter),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(listening.fileno(),),
        )
        running = Running(process, listening.getsockname()[1])
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def exists(pid: int) -> bool:
    """Whether the process lives; a zombie doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    while exists(pid):  # noqa: ASYNC110 - an orphan's end tells nobody
        await asyncio.sleep(0.01)


async def test_all_workers_serve_one_socket_and_end_together() -> None:
    """``ready`` once, when all of them listen; a SIGTERM goes on to each of them once; exit status 0."""
    async with supervising(workers=3) as server:
        await server.line("ready")
        assert len(set(server.pids)) == 3
        assert await server.who() in server.pids
        server.process.terminate()
        lines, status = await server.rest()
    assert status == 0
    assert lines.count("signal") == 3
    assert sorted(lines) == sorted(["signal"] * 3 + [f"gone {pid}" for pid in server.pids])


async def test_a_worker_that_dies_is_replaced() -> None:
    """One line says so; the others serve on, and the new one takes its place."""
    async with supervising() as server:
        await server.line("ready")
        victim, other = server.pids
        os.kill(victim, signal.SIGKILL)
        await server.line(lambda line: "ended with status -9, a new one starts in" in line)
        assert await server.who() == other
        assert f"gone {victim}" in server.lines
        await server.line("worker")
        assert len(server.pids) == 3
        os.kill(other, signal.SIGKILL)
        assert await server.who() in (server.pids[2], other)
        server.process.terminate()
        assert (await server.rest())[1] == 0
    assert server.lines.count("ready") == 1


async def test_a_worker_that_can_not_serve_stops_the_start() -> None:
    """Its words are printed once, whatever the number of workers, and its exit status is the supervisor's."""
    async with supervising("broken", workers=4) as server:
        lines, status = await server.rest()
    assert [line for line in lines if not line.startswith("gone")] == ["a bad setting"]
    assert status == 3


async def test_a_worker_that_can_not_be_started_again_is_tried_again(tmp_path: Path) -> None:
    """Its interpreter is being replaced, or the system has no process left: the others serve on meanwhile."""
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    async with supervising(interpreter=str(interpreter)) as server:
        await server.line("ready")
        victim, other = server.pids
        away = interpreter.rename(tmp_path / "away")
        os.kill(victim, signal.SIGKILL)
        for _ in range(2):
            await server.line(lambda line: "can't be started ([Errno 2] No such file" in line)
            assert await server.who() == other
        away.rename(interpreter)
        while len(server.pids) < 3:
            await server.line("worker ")
        server.process.terminate()
        assert (await server.rest())[1] == 0


async def test_a_first_worker_that_can_not_be_started_stops_the_start() -> None:
    """The reason in one line, and exit status 1: none of the others would fare better."""
    async with supervising(workers=4, interpreter="/nowhere/python") as server:
        lines, status = await server.rest()
    assert lines == ["no worker: [Errno 2] No such file or directory: '/nowhere/python'"]
    assert status == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_goes_on_as_well(number: signal.Signals) -> None:
    """It ends the workers at once, and so the supervisor."""
    async with supervising("stubborn") as server:
        await server.line("ready")
        server.process.send_signal(number)
        for _ in server.pids:
            await server.line("signal")
        server.process.send_signal(number)
        lines, status = await server.rest()
    assert (lines.count("signal"), status) == (2, 0)


async def test_a_worker_that_does_not_end_is_killed() -> None:
    """Behind the drain and `GRACE`."""
    async with supervising("stubborn", drain_seconds=0) as server:
        await server.line("ready")
        server.process.terminate()
        assert (await server.rest())[1] == 0
    assert not any(map(exists, server.pids))


async def test_no_worker_outlives_its_supervisor() -> None:
    """Even one that was killed: the pipe ends."""
    async with supervising() as server:
        await server.line("ready")
        server.process.kill()
        for pid in server.pids:
            await gone(pid)


async def test_a_signal_while_the_workers_start() -> None:
    """It reaches them when they come to it."""
    async with supervising() as server:
        await server.line("worker")
        server.process.terminate()
        assert (await server.rest())[1] == 0
        assert not any(map(exists, server.pids))
