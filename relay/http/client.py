"""Requests to backends over pooled connections: each is exactly one well-formed request, and errors name the cause.

Nothing is added and nothing is remembered: no fields of our own except the framing, no cookies, no redirects, no
decoding, no proxies from the environment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from relay.backends.balance import UrlState
from relay.backends.connector import Connector, unreachable
from relay.backends.dial import DialFailed
from relay.forwarding import request_head
from relay.http.connection import Connection
from relay.http.exchange import Exchange, Unanswered
from relay.http.pool import Key, Pool
from relay.routing.snapshot import Backend, Url
from relay.typing import RawHeaders

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that are safe to send again (RFC 9110 §9.2.2)."""

Address = Callable[[Url], tuple[bytes, bytes]]
"""Returns the request target and the ``Host`` for the chosen url."""


@dataclass(slots=True)
class Request:
    """A request to a backend.

    Attributes:
        headers: All fields except ``Host`` and the framing (``Content-Length``, ``Transfer-Encoding``).
        body: None if there is none.
        length: Of the body. If None, a body is sent chunked, and no ``Content-Length`` is sent without one.
    """

    method: str
    address: Address
    headers: RawHeaders
    body: AsyncIterator[bytes] | None = None
    length: int | None = None

    def head(self, url: Url) -> bytes:
        """The request line and the header fields.

        Raises:
            Refused: The head can't be sent (`forwarding.request_head`).
        """
        target, host = self.address(url)
        framing: RawHeaders = []
        if self.length is not None:
            framing = [(b"content-length", b"%d" % self.length)]
        elif self.body is not None:
            framing = [(b"transfer-encoding", b"chunked")]
        return request_head(self.method.encode(), target, host, self.headers + framing)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body (RFC 9110 §10.1.1)."""
        return self.body is not None and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
        )


class Client:
    """Talks HTTP/1.1 to the backends. One per process, used from its event loop only."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._pool = Pool()

    async def request(self, backend: Backend, request: Request) -> Exchange:
        """Send a request; return when the response's head has arrived.

        If a connection can't be made, the next url is tried. A pooled connection that the backend has closed is
        replaced. One that dies before the first byte of the response is replaced once, if the request may be sent
        again: the method is idempotent, and nothing of the body has been read from the client.

        Raises:
            BackendError: As raised by `Connector.connect` and `Exchange.start`.
            Refused: The request can't be sent as it is.
            Exception: Anything that reading the request's body raises.
        """
        failures: list[tuple[Url, DialFailed]] = []
        for state in self._connector.candidates(backend):
            head = request.head(state.url)
            key = (backend.name, state.url.text, backend.tls_verify)
            if (kept := self._pool.take(key)) is not None:
                state.take()
                exchange = Exchange(backend, kept, request.method)
                try:
                    await exchange.start(head, request.body, request.length, request.expects_continue)
                except Unanswered:
                    if request.method not in IDEMPOTENT or exchange.body_touched:
                        raise
                else:
                    return exchange
            try:
                _, fresh = await self._connector.dial(backend, state, self._factory(state, key))
            except DialFailed as failure:
                failures.append((state.url, failure))
                continue
            exchange = Exchange(backend, fresh, request.method)
            await exchange.start(head, request.body, request.length, request.expects_continue)
            return exchange
        raise unreachable(backend, failures) from failures[-1][1]

    async def close(self) -> None:
        """Close the idle connections; those in use end with their exchange."""
        self._pool.close()

    def _factory(self, state: UrlState, key: Key) -> Callable[[], Connection]:
        return lambda: Connection(state, key, self._pool.put, self._pool.forget)
