"""The Autobahn test suite's fuzzing client, in a process of its own, against any WebSocket URL.

It is kosoku, which runs Autobahn's own case files. They come with a stand-in for the ``autobahn`` package that Daphne
imports: it may not get into the process of the tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.served import ROOT

CONCURRENCY = 4
"""Cases at the same time; many of them wait for a second to see whether something happens."""

LIGHT = 2**20
"""Bytes for a case of compression where minutes are too long: Autobahn sends a thousand messages of up to 128 KiB."""


class Verdict(NamedTuple):
    """What the suite says of one case: of the messages, and of the close.

    INFORMATIONAL is as good as OK: the RFC leaves open what happens there. NON-STRICT is against a "should".
    """

    behaviour: str
    close: str

    @property
    def grades(self) -> tuple[int, int]:
        """The higher the better."""
        behaviour = {"OK": 3, "INFORMATIONAL": 3, "NON-STRICT": 2, "UNIMPLEMENTED": 1}
        return behaviour.get(self.behaviour, 0), int(self.close in ("OK", "INFORMATIONAL"))

    @property
    def perfect(self) -> bool:
        return self.grades == (3, 1)

    def is_worse_than(self, other: Verdict) -> bool:
        return any(mine < its for mine, its in zip(self.grades, other.grades, strict=True))

    def __str__(self) -> str:
        return f"{self.behaviour}, close {self.close}"


async def verdicts(url: str, cases: Sequence[str], *, budget: int = 0) -> dict[str, Verdict]:
    """Run the cases that these patterns (``12.*``) name against a server.

    Args:
        budget: Bytes that a case of compression (12.*, 13.*) sends at most, by fewer messages; 0: all of them.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.autobahn_helpers", f"--budget={budget}", url, *cases),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        # The files were written for Python 2: what Python has to say about them is nobody's concern here.
        env=os.environ | {"PYTHONWARNINGS": "ignore", "PYTHONDEVMODE": ""},
    )
    try:
        output, _ = await child.communicate()
    except BaseException:
        child.kill()
        await child.wait()
        raise
    assert child.returncode == 0, f"the fuzzing client ended with status {child.returncode}"
    return {case: Verdict(*verdict) for case, verdict in json.loads(output).items()}


@asynccontextmanager
async def echo_server() -> AsyncIterator[str]:
    """The server under test: an echo on `websockets` that compresses with whoever offers it; its http URL."""

    async def echo(client: ServerConnection) -> None:
        try:
            async for message in client:
                await client.send(message)
        except ConnectionClosed:
            pass  # the suite breaks the protocol for a living

    # A busy machine may take its time with a pong.
    async with serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def main() -> None:
    """The child process: print a JSON object of verdicts."""
    parser = ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--budget", type=int, default=0)
    options = parser.parse_args()
    json.dump(asyncio.run(_run(options.url, options.cases, options.budget)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # kosoku's threads outlive its result, and abort the process if Python ends under them


async def _run(url: str, cases: list[str], budget: int) -> dict[str, tuple[str, str]]:
    from kosoku import FailureError, run_fuzzingclient

    if budget:
        _shorten(budget)
    try:
        results = await run_fuzzingclient(url, cases, concurrency=CONCURRENCY)
    except FailureError as failure:
        results = failure.results
    return {result.case_id: (result.behavior.value, result.behavior_close.value) for result in results}


def _shorten(budget: int) -> None:
    """Let the cases of compression send fewer messages, but still all sizes, fragments and parameters."""
    from kosoku._caseindex import initialize_shims

    initialize_shims()
    from case12_x_x import Case12_X_X, Case13_X_X  # type: ignore[import-not-found]

    for case in (*Case12_X_X, *Case13_X_X):
        case.COUNT = min(case.COUNT, max(budget // case.LEN, 4))


if __name__ == "__main__":
    main()
