"""Batch work at the end of a turn of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PAUSE = 0.01
"""Seconds for which counts and lines of the log wait for others, under load."""


class AtEnd:
    """Calls a function once, after everything that is ready now has run, however often it is requested in that turn.

    If no loop runs (in a command or another thread), the function is called at once.

    Args:
        pause: Seconds between two calls; what is requested sooner waits for the next one.
    """

    __slots__ = ("_call", "_loop", "_next", "_pause")

    def __init__(self, call: Callable[[], object], pause: float = 0) -> None:
        self._call, self._pause = call, pause
        self._loop: asyncio.AbstractEventLoop | None = None  # which will call it
        self._next = 0.0  # when, at the earliest

    def __call__(self) -> None:
        if self._loop is not None and self._loop.is_running():
            return
        try:  # a system call, in Python 3.11
            self._loop = loop = asyncio.get_running_loop()
        except RuntimeError:
            self._call()
            return
        wait = self._next - time.monotonic() if self._pause else 0
        if wait > 0:
            loop.call_later(wait, self._run)
        else:
            loop.call_soon(self._run)

    def _run(self) -> None:
        self._loop = None
        if self._pause:
            self._next = time.monotonic() + self._pause
        self._call()
