"""The Autobahn test suite through the gateway: no case may end worse than it does at the same backend without it.

The cases of compression send fewer messages than they would, or they would take ten minutes. With all of them, and
with the verdicts printed: ``AUTOBAHN=all .venv/bin/python -m pytest tests/test_autobahn.py -n 0 -s``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from tests import stack
from tests.autobahn_helpers import LIGHT, Verdict, echo_server, verdicts
from tests.identity_helpers import SECRET, token

ALL = os.environ.get("AUTOBAHN") == "all"
BUDGET = 0 if ALL else LIGHT

ATTEMPTS = 10  # on a busy machine an echo may lose its race several times in a row

COMPRESSION = ["12.*", "13.*"]
PLAIN = [
    pytest.param(["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"], 247, id="framing"),
    pytest.param(["9.*"], 54, id="large messages"),
]
COMPRESSED = [
    pytest.param(["12.*"], 90, id="compression of several kinds of data"),
    pytest.param(["13.*"], 126, id="compression with several parameters"),
]

pytestmark = pytest.mark.timeout(0 if ALL else 240)


@asynccontextmanager
async def echo_behind_a_gateway(*, tunnel: bool) -> AsyncIterator[tuple[str, str]]:
    """Two URLs: the gateway's, with a token, and the backend's own."""
    async with echo_server() as backend:
        # The largest messages are as large as the limit is by default, and no limit is tested here.
        async with stack.gateway(stack.snapshot(backend, max_message_size=0), tunnel=tunnel) as gateway:
            yield f"ws://127.0.0.1:{gateway.port}/ws?token={token(SECRET)}", backend.replace("http", "ws")


async def compared(cases: list[str], *, tunnel: bool) -> tuple[int, dict[str, str]]:
    """How many cases there are, and what ended worse through the gateway than at the backend itself.

    What is perfect can't be worse, and is not tried there. Some verdicts depend on how TCP happens to cut the bytes
    (whether an echo still goes out before the close): a case is worse only if it is so every time of `ATTEMPTS`.
    """
    async with echo_behind_a_gateway(tunnel=tunnel) as (gateway, backend):
        found = again = await verdicts(gateway, cases, budget=BUDGET)
        sys.stdout.write(f"{len(found)} cases: {dict(Counter(map(str, found.values())))}\n")
        for attempts_left in reversed(range(ATTEMPTS)):
            suspects = [case for case, verdict in again.items() if not verdict.perfect]
            direct = await verdicts(backend, suspects, budget=BUDGET) if suspects else {}
            worse = [case for case in suspects if again[case].is_worse_than(direct[case])]
            if not (worse and attempts_left):
                break
            again = await verdicts(gateway, worse, budget=BUDGET)
        return len(found), {case: f"{again[case]}; without the gateway {direct[case]}" for case in worse}


@pytest.mark.parametrize(("cases", "count"), PLAIN + COMPRESSED)
def test_no_case_is_worse_through_the_tunnel(cases: list[str], count: int) -> None:
    """Frames pass as they are: what the backend does right or wrong is what the client sees."""
    assert uvloop.run(compared(cases, tunnel=True)) == (count, {})


@pytest.mark.parametrize(("cases", "count"), PLAIN)
def test_no_case_is_worse_by_messages(cases: list[str], count: int) -> None:
    """Under a server without the tunnel it is that server which judges the client's frames."""
    assert uvloop.run(compared(cases, tunnel=False)) == (count, {})


def test_compression_is_not_offered_by_messages() -> None:
    """So every case of it ends before it begins, and none fails."""

    async def run() -> dict[str, Verdict]:
        async with echo_behind_a_gateway(tunnel=False) as (gateway, _):
            return await verdicts(gateway, COMPRESSION)

    assert Counter(uvloop.run(run()).values()) == {Verdict("UNIMPLEMENTED", "OK"): 216}
