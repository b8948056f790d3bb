"""Make one connection to one url: name, TCP and TLS within one time limit, with the exact cause of a failure."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from relay.backends import causes
from relay.backends.resolver import Address, Resolver
from relay.routing.snapshot import Url

P = TypeVar("P", bound=asyncio.BaseProtocol)

STAGGER = 0.25
"""Seconds before the next address is tried in parallel to a silent one (RFC 8305 §5, Connection Attempt Delay)."""


NEVER = 86400.0
"""Seconds; the loop's own limit on a TLS handshake, too long to interfere with ours."""


class DialFailed(Exception):
    """A url could not be reached; `str()` is the cause.

    Attributes:
        phase: ``resolve``, ``connect`` or ``tls``.
        timed_out: Whether our time limit passed; otherwise there was an error.
    """

    def __init__(self, phase: str, cause: str, timed_out: bool = False) -> None:
        super().__init__(cause)
        self.phase, self.timed_out = phase, timed_out


class Dial:
    """One attempt; `phase` and `place` show how far it got."""

    def __init__(self, url: Url, resolver: Resolver, tls_verify: bool) -> None:
        self._url, self._resolver, self._tls_verify = url, resolver, tls_verify
        self.phase = "resolve"
        self.place = url.host

    async def connect(self, factory: Callable[[], P], limit: float) -> tuple[asyncio.Transport, P]:
        """Connect, with a new protocol.

        Args:
            factory: Called once per address tried; only one of its protocols is kept.
            limit: Seconds for name, TCP and TLS together; 0: no limit.

        Raises:
            DialFailed: For any cause of failure.
        """
        try:
            async with asyncio.timeout(limit or None):
                addresses = await self._resolve()
                if len(addresses) == 1:
                    connection = await self._open(addresses[0], factory)
                else:
                    connection = await self._race(addresses, factory)
        except TimeoutError as exc:
            step = {"resolve": "name resolution", "connect": "connect", "tls": "TLS handshake"}[self.phase]
            raise DialFailed(self.phase, f"{step} timed out after {limit:g} s: {self.place}", timed_out=True) from exc
        if connection[0].is_closing():  # uvloop's transports raise when they are written to then
            raise DialFailed(self.phase, f"connection reset: {self.place}")
        return connection

    async def _resolve(self) -> tuple[Address, ...]:
        url = self._url
        try:
            addresses = await self._resolver.resolve(url.host, url.port)
        except OSError as exc:
            raise DialFailed("resolve", causes.of_resolution(exc, url.host)) from exc
        self.phase = "connect"
        self.place = ", ".join(map(str, addresses))
        return addresses

    async def _race(self, addresses: tuple[Address, ...], factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Try the addresses in order: the next at once after a failure, or after `STAGGER` of silence (RFC 8305 §5)."""
        waiting = list(reversed(addresses))
        trying: set[asyncio.Task[tuple[asyncio.Transport, P]]] = set()
        failures: list[DialFailed] = []
        try:
            while waiting or trying:
                if waiting:
                    address = waiting.pop()
                    trying.add(asyncio.create_task(self._open(address, factory), name=f"connect {address}"))
                done, trying = await asyncio.wait(
                    trying, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                connected = [task for task in done if task.exception() is None]
                trying.update(connected[1:])
                if connected:
                    return connected[0].result()
                failures += [exc for task in done if isinstance(exc := task.exception(), DialFailed)]
                for task in done:
                    if not isinstance(task.exception(), DialFailed):
                        task.result()
        finally:
            for task in trying:
                task.add_done_callback(_abandon)
                task.cancel()
        cause = "; ".join(dict.fromkeys(map(str, failures)))
        raise DialFailed(failures[-1].phase, cause) from failures[-1]

    async def _open(self, address: Address, factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        loop = asyncio.get_running_loop()
        if self._url.scheme == "https":
            return await self._open_tls(address, factory)
        host, port = address.sockaddr[:2]
        try:
            return await loop.create_connection(factory, host, port)
        except OSError as exc:
            raise DialFailed("connect", causes.of_connection(exc, str(address))) from exc

    async def _open_tls(self, address: Address, factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Connect TCP first and then TLS, so that their failures can be told apart."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            try:
                await loop.sock_connect(sock, address.sockaddr)
            except OSError as exc:
                raise DialFailed("connect", causes.of_connection(exc, str(address))) from exc
            self.phase = "tls"
            self.place = str(address)
            context = await asyncio.to_thread(tls_context, self._tls_verify)  # the first call reads 150 CAs: 200 ms
            try:
                return await loop.create_connection(
                    factory, sock=sock, ssl=context, server_hostname=self._url.host, ssl_handshake_timeout=NEVER
                )
            except OSError as exc:
                raise DialFailed("tls", causes.of_tls(exc)) from exc
        except BaseException:
            sock.close()
            raise


@lru_cache(2)
def tls_context(verify: bool) -> ssl.SSLContext:
    """The client context shared by all backends with, or without, verification. HTTP/1.1 only (RFC 7301)."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _abandon(task: asyncio.Task[tuple[asyncio.Transport, P]]) -> None:
    """Close a connection that lost the race."""
    if not task.cancelled() and task.exception() is None:
        task.result()[0].abort()
