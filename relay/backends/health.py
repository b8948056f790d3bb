"""Poll the health path of a url."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass

from relay.backends.balance import UrlState
from relay.backends.dial import Dial, DialFailed
from relay.backends.resolver import Resolver
from relay.live import events, log
from relay.routing.snapshot import Url

logger = logging.getLogger("relay.backends")

INTERVAL = 2.0
"""Seconds between polls."""

LIMIT = 1.0
"""Seconds for one poll, connecting included."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r?\n)")


@dataclass(frozen=True, slots=True)
class Probe:
    """What to poll; equal probes share one poll."""

    backend: str
    url: Url
    path: str
    tls_verify: bool

    async def ask(self, resolver: Resolver, limit: float) -> str:
        """Why the url is not healthy; empty if it answered 200."""
        dial = Dial(self.url, resolver, self.tls_verify)
        try:
            async with asyncio.timeout(limit):
                transport, protocol = await dial.connect(_Answer, 0)
                try:
                    return await self._status(transport, protocol)
                finally:
                    transport.abort()
        except TimeoutError:
            where = f" ({dial.phase} {dial.place})" if dial.phase != "connect" else ""
            return f"{self.path}: no answer within {limit:g} s{where}"
        except (DialFailed, OSError) as exc:
            return str(exc) or type(exc).__name__

    async def _status(self, transport: asyncio.Transport, answer: _Answer) -> str:
        target = f"{self.url.prefix}{self.path}"
        transport.write(f"GET {target} HTTP/1.1\r\nHost: {self.url.authority}\r\nConnection: close\r\n\r\n".encode())
        try:
            line = await answer.reader.readline()
        except ValueError:  # no line break within the reader's limit
            return f"{target}: no HTTP answer"
        found = _STATUS_LINE.match(line)
        if found is None:
            return f"{target}: no HTTP answer" if line else f"{target}: closed without an answer"
        return "" if found[1] == b"200" else f"{target} answered {found[1].decode()}, not 200"


class _Answer(asyncio.StreamReaderProtocol):
    """Reads the first line of an answer."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader(limit=8192)
        super().__init__(self.reader)


async def poll(
    probe: Probe, state: UrlState, resolver: Resolver, interval: float = INTERVAL, limit: float = LIMIT
) -> None:
    """Keep a url's state up to date until cancelled, and log when it changes."""
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        cause = await probe.ask(resolver, limit)
        changed = state.probe_failed(cause) if cause else state.probe_succeeded(loop.time())
        if changed and cause:
            log.tell(
                events.BackendError(
                    backend=probe.backend,
                    code="no_healthy_backend",
                    phase="health",
                    detail=f"{probe.url.text}: {cause}",
                )
            )
        elif changed:
            at = {"backend": probe.backend, "url": probe.url.text}
            logger.info("%s: %s is healthy again", probe.backend, probe.url.text, extra=at)
        await asyncio.sleep(max(0.0, started + interval - loop.time()))
