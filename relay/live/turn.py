"""Batch work at the end of a turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class AtEnd:
    """Calls a function once, after everything that is ready now has run, however often it is requested in that turn.

    If no loop runs (in a command or another thread), the function is called at once.
    """

    __slots__ = ("_call", "_loop")

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._loop: asyncio.AbstractEventLoop | None = None  # which will call it

    def __call__(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._call()
            return
        if self._loop is not loop:
            self._loop = loop
            loop.call_soon(self._run)

    def _run(self) -> None:
        self._loop = None
        self._call()
