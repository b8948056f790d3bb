"""The event loop under Daphne: uvloop if it is installed.

Import this before anything from Twisted or ``daphne.server``: the first one to be imported chooses the reactor.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from twisted.internet import asyncioreactor

RESOLVER_THREADS = "32"
"""libuv's threads, of which at most half run ``getaddrinfo`` at a time. The default is 4: two names with a silent name
server would block all others, even those in ``/etc/hosts``."""


def install() -> None:
    """Put Twisted's reactor on a fast loop, unless the process already has a reactor."""
    if "twisted.internet.reactor" in sys.modules:
        return
    loop = new_event_loop()
    if threads := os.environ.get("ASGI_THREADS"):  # Daphne's own variable, for its own loop
        loop.set_default_executor(ThreadPoolExecutor(max_workers=int(threads)))
    asyncioreactor.install(loop)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's loop, or asyncio's own if there is no uvloop (Windows)."""
    os.environ.setdefault("UV_THREADPOOL_SIZE", RESOLVER_THREADS)
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
