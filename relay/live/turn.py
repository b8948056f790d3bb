"""The end of one turn of the event loop: where what many did in it is done for all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def at_end(call: Callable[[], object]) -> None:
    """Call it when everything that is ready now has run; at once where no loop runs: in a command, another thread."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        call()
    else:
        loop.call_soon(call)
