"""The responses of views, and how they are sent over ASGI."""

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
    """A response with raw header fields, order and repeats kept, and a backend's body or a few bytes of our own.

    Args:
        exchange: The source of the body, which is streamed; None: `content` is the whole body.
    """

    def __init__(
        self, status: int, raw_headers: RawHeaders, exchange: Exchange | None = None, content: bytes = b""
    ) -> None:
        # Not super().__init__: Django's headers are text, unique by name, and include a Content-Type.
        self.status_code = status
        self.raw_headers = raw_headers
        self.exchange, self.content = exchange, content

    def close(self) -> None:
        """Abandon the rest of the backend's response."""
        if self.exchange is not None:
            self.exchange.close()


def refused(request: RelayRequest, refusal: Refusal) -> RelayedResponse:
    """The response to a refused request; the refusal is recorded for the log."""
    request.refusal = refusal
    request_id = request.arrival.request_id
    body = refusal.body(request_id)
    return RelayedResponse(refusal.status, refusal.headers(request_id, body), content=body)


def raw_headers(response: HttpResponseBase, request_id: str) -> RawHeaders:
    """The header fields of any response, with our ``X-Request-ID`` and one field per cookie."""
    if isinstance(response, RelayedResponse):
        fields = response.raw_headers
    else:
        fields = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
        fields += [(b"set-cookie", morsel.OutputString().encode("ascii")) for morsel in response.cookies.values()]
        if isinstance(response, HttpResponse) and not response.has_header("Content-Length"):
            fields.append((b"content-length", b"%d" % len(response.content)))
    return [*(field for field in fields if field[0] != b"x-request-id"), (b"x-request-id", request_id.encode())]


async def send_body(response: HttpResponseBase, request: RelayRequest, send: Send) -> None:
    """Send the body, each piece as it arrives; `send` waits for a slow client.

    Raises:
        BackendError: The backend broke off. The client must notice that, so the response is not finished.
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
