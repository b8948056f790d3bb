"""Requests to the backends: kept connections, exactly one well-formed request each, and an error that names the cause.

Nothing is invented and nothing is kept: no field of our own but the framing, no cookies, no redirects, no decoding, no
proxies from the environment.
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
"""Sending them again does no harm (RFC 9110 §9.2.2)."""

Address = Callable[[Url], tuple[bytes, bytes]]
"""Gives the request target and the ``Host`` for the url that is taken."""


@dataclass(slots=True)
class Request:
    """What a backend is asked.

    Attributes:
        headers: All fields but ``Host`` and the framing (``Content-Length``, ``Transfer-Encoding``).
        body: None: there is none.
        length: Of the body. None: with a body, it is chunked; without one, no ``Content-Length`` is sent.
    """

    method: str
    address: Address
    headers: RawHeaders
    body: AsyncIterator[bytes] | None = None
    length: int | None = None

    def head(self, url: Url) -> bytes:
        """The request line and the fields.

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
        """Whether the client wants to hear 100 before it sends the body (RFC 9110 §10.1.1)."""
        return self.body is not None and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
        )


class Client:
    """Talks HTTP/1.1 to the backends. One per process, used from its event loop only."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._pool = Pool()

    async def request(self, backend: Backend, request: Request) -> Exchange:
        """Send a request; return when the head of the response is there.

        A connection that can't be made is tried at the next url. A kept one that the backend has closed meanwhile is
        replaced; one that dies before a byte of the answer is replaced once, if the request may be sent again: an
        idempotent method, and nothing of the body taken from the client yet.

        Raises:
            BackendError: What `Connector.connect` and `Exchange.start` raise.
            Refused: The request can't be sent as it is.
            Exception: Whatever reading the request's body raises.
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
        """Close the connections that wait; those in use end with their exchange."""
        self._pool.close()

    def _factory(self, state: UrlState, key: Key) -> Callable[[], Connection]:
        return lambda: Connection(state, key, self._pool.put, self._pool.forget)
