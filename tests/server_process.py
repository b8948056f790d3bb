"""`relay.server` in a process of its own, without Django: ``python -m tests.server_process [Daphne's options]``.

It prints ``ready URL…``, ``drain`` and what happens to its application, a line each. ``DRAIN_SECONDS``,
``FAIL_STARTUP`` (a message) and ``SLOW_STARTUP`` are read from the environment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relay.typing import Receive, Scope, Send
from tests.server_helpers import echo


def say(*words: object) -> None:
    """Print a line in one write; ``print`` makes two where Python is unbuffered."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes requests, and keeps WebSockets open until their clients leave."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        say("request", scope["scheme"], scope["client"] and "client", scope["path"])
        await echo(scope, receive, send)
    else:
        await receive()
        await send({"type": "websocket.accept"})
        say("socket")
        while (await receive())["type"] != "websocket.disconnect":
            pass


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    if message := os.environ.get("FAIL_STARTUP"):
        return await send({"type": "lifespan.startup.failed", "message": message})
    if os.environ.get("SLOW_STARTUP"):
        say("starting")
        await asyncio.Event().wait()
    say("startup")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


class Process:
    """It, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().rstrip()

    async def ready(self) -> int:
        """The port on which it listens."""
        assert await self.line() == "startup"
        return int((await self.line()).removeprefix("ready http://127.0.0.1:"))

    async def rest(self) -> tuple[list[str], int]:
        """The lines that it still prints, and its exit status."""
        assert self.process.stdout is not None
        lines = (await self.process.stdout.read()).decode().splitlines()
        return lines, await self.process.wait()


@asynccontextmanager
async def running(*options: str, pass_fds: tuple[int, ...] = (), **environment: str) -> AsyncIterator[Process]:
    """Run it with Daphne's options; kill it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.server_process",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        pass_fds=pass_fds,
        env=os.environ | environment,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def main() -> None:
    from relay.server.cli import CommandLineInterface, UsageError
    from relay.server.endpoints import Endpoint, EndpointError, descriptions
    from relay.server.host import Hooks
    from relay.server.lifespan import StartupFailed

    logging.getLogger("relay").addHandler(logging.NullHandler())
    hooks = Hooks(on_ready=lambda urls: say("ready", *urls), on_drain=lambda: say("drain"))
    seconds = float(os.environ.get("DRAIN_SECONDS", "20"))
    try:
        daphne, args = CommandLineInterface(), [*sys.argv[1:], "tests.server_process:application"]
        options = daphne.parser.parse_args(args)
        texts = descriptions(
            options.host, options.port, options.unix_socket, options.file_descriptor, options.socket_strings
        )
        daphne.run(args, [(it, it.open()) for it in map(Endpoint.parse, texts)], hooks, seconds)
    except (UsageError, EndpointError, StartupFailed) as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")


if __name__ == "__main__":
    main()
