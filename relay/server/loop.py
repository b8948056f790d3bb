"""The event loop under Daphne: uvloop where it is installed.

Import it before anything of Twisted or ``daphne.server``: whoever comes first chooses the reactor of the process.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from twisted.internet import asyncioreactor

RESOLVER_THREADS = "32"
"""libuv's threads for ``getaddrinfo``, of which it lets half hang at a time. By default there are 4: two names whose
server is silent would keep all others waiting, those of ``/etc/hosts`` too."""


def install() -> None:
    """Put Twisted's reactor on a fast loop, unless the process has a reactor already."""
    if "twisted.internet.reactor" in sys.modules:
        return
    loop = new_event_loop()
    if threads := os.environ.get("ASGI_THREADS"):  # Daphne's own variable, for its own loop
        loop.set_default_executor(ThreadPoolExecutor(max_workers=int(threads)))
    asyncioreactor.install(loop)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, or asyncio's own where there is none (Windows)."""
    os.environ.setdefault("UV_THREADPOOL_SIZE", RESOLVER_THREADS)
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
