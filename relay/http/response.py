"""What a view answers, and how it goes out over ASGI."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from relay.http.exchange import Exchange
from relay.http.request import RelayRequest
from relay.refusals import Refusal
from relay.typing import RawHeaders, Send


class RelayedResponse(HttpResponseBase):
    """An answer whose fields are bytes, order and repeats kept, and whose body is a backend's or a few bytes of ours.

    Args:
        exchange: Its body is passed on as it comes; None: `content` is the whole body.
    """

    def __init__(
        self, status: int, raw_headers: RawHeaders, exchange: Exchange | None = None, content: bytes = b""
    ) -> None:
        # Not super().__init__: Django's headers are text, one per name, with a Content-Type of its own.
        self.status_code = status
        self.raw_headers = raw_headers
        self.exchange, self.content = exchange, content

    def close(self) -> None:
        """Give up what the backend has not sent yet."""
        if self.exchange is not None:
            self.exchange.close()


def refused(request: RelayRequest, refusal: Refusal) -> RelayedResponse:
    """The answer to a request that goes no further; it is noted for the log."""
    request.refusal = refusal
    request_id = request.arrival.request_id
    body = refusal.body(request_id)
    return RelayedResponse(refusal.status, refusal.headers(request_id, body), content=body)


def raw_headers(response: HttpResponseBase, request_id: str) -> RawHeaders:
    """The fields of any response, ``X-Request-ID`` with our id among them; each cookie a field of its own."""
    if isinstance(response, RelayedResponse):
        fields = response.raw_headers
    else:
        fields = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
        fields += [(b"set-cookie", morsel.OutputString().encode("ascii")) for morsel in response.cookies.values()]
        if isinstance(response, HttpResponse) and not response.has_header("Content-Length"):
            fields.append((b"content-length", b"%d" % len(response.content)))
    return [*(field for field in fields if field[0] != b"x-request-id"), (b"x-request-id", request_id.encode())]


async def send_body(response: HttpResponseBase, request: RelayRequest, send: Send) -> None:
    """Pass the body on, each piece when it is there; `send` waits for a slow client.

    Raises:
        BackendError: The backend broke off. The client must see that too, so nothing ends the response.
    """
    if isinstance(response, RelayedResponse) and response.exchange is not None:
        await _relay_body(response.exchange, request, send)
    elif isinstance(response, StreamingHttpResponse) and request.method != "HEAD":
        async with aclosing(cast(AsyncGenerator[bytes, None], aiter(response))) as pieces:
            async for piece in pieces:
                request.bytes_to_client += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    else:
        content = b""
        if isinstance(response, RelayedResponse | HttpResponse) and request.method != "HEAD":
            content = response.content
        request.bytes_to_client = len(content)
        await send({"type": "http.response.body", "body": content, "more_body": False})


async def _relay_body(exchange: Exchange, request: RelayRequest, send: Send) -> None:
    more = True
    while more:
        piece = await exchange.read()
        more = not exchange.is_complete
        request.bytes_to_client += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": more})
