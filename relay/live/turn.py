"""The end of one turn of the event loop: where what many did in it is done for all of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class AtEnd:
    """Calls a function once everything that is ready now has run, however often it is asked to in that turn.

    Where no loop runs, in a command or another thread, it calls it at once.
    """

    __slots__ = ("_call", "_loop")

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._loop: asyncio.AbstractEventLoop | None = None  # in which it will be called

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
