"""The opening handshake with a backend: the request, and when an answer accepts it (RFC 6455 §4.1, §4.2.2). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from websockets.utils import accept_key

from relay import forwarding
from relay.access import Grant
from relay.entry import Arrival
from relay.forwarding import Forwarding
from relay.identity.model import Identification
from relay.routing.snapshot import Url
from relay.typing import RawHeaders, Scope
from relay.websocket import deflate, secrets

_EXCERPT = 200
"""Bytes of a refusal's body that are logged."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The content of a valid 101.

    Attributes:
        extensions: The negotiated ``permessage-deflate``; empty if there is none.
        headers: The fields for the client: end-to-end ones, without the handshake's own.
    """

    subprotocol: str | None
    extensions: bytes
    headers: RawHeaders


@dataclass(frozen=True, slots=True)
class Opening:
    """One client's handshake, to be made with its backend.

    Attributes:
        deflate_offers: The client's, if bytes will be tunnelled; otherwise none.
    """

    scope: Scope
    arrival: Arrival
    grant: Grant
    who: Identification
    rules: Forwarding
    subprotocols: Sequence[str]
    deflate_offers: tuple[deflate.Offer, ...] = ()

    def request(self, url: Url, key: bytes) -> bytes:
        """The request's head.

        Raises:
            Refused: A value contains a line break, which no server that parses HTTP lets through.
        """
        grant = self.grant
        target = forwarding.target(url, grant, self.rules.query(self.scope, grant, self.who))
        host = forwarding.host(url, grant, self.arrival)
        fields = [
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (b"sec-websocket-key", key),
            (b"sec-websocket-version", b"13"),
        ]
        if self.subprotocols:
            fields.append((b"sec-websocket-protocol", ", ".join(self.subprotocols).encode("latin-1")))
        if self.deflate_offers:
            fields.append((b"sec-websocket-extensions", b", ".join(offer.text for offer in self.deflate_offers)))
        if origin := self.origin:
            fields.append((b"origin", origin))
        fields += self.rules.request_headers(self.scope, self.arrival, grant, self.who)
        return forwarding.request_head(b"GET", target, host, fields)

    @property
    def origin(self) -> bytes | None:
        """The ``Origin`` that the backend sees."""
        return forwarding.websocket_origin(self.scope, self.grant)

    def judge(self, headers: RawHeaders, key: bytes) -> Accepted | str:
        """Judge the fields of a 101 (names in lowercase); a string says why it is not valid (§4.1)."""
        fields: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            fields.setdefault(name, []).append(value)
        if [value.lower() for value in fields.get(b"upgrade", ())] != [b"websocket"]:
            return "without Upgrade: websocket"
        if b"upgrade" not in forwarding.named_by_connection(headers):
            return "without Connection: Upgrade"
        if fields.get(b"sec-websocket-accept") != [accept_key(key.decode()).encode()]:
            return "with a Sec-WebSocket-Accept that does not match the key"
        protocol = b", ".join(fields.get(b"sec-websocket-protocol", ()))
        chosen = protocol.decode("latin-1")
        if chosen and chosen not in self.subprotocols:
            return f"with the subprotocol {self.excerpt(protocol)}; offered: {', '.join(self.subprotocols) or 'none'}"
        extensions = b", ".join(fields.get(b"sec-websocket-extensions", ()))
        if extensions and not deflate.answers(extensions, self.deflate_offers):
            offered = b", ".join(offer.text for offer in self.deflate_offers).decode("latin-1")
            return f"with the extension {self.excerpt(extensions)}; offered: {offered or 'none'}"
        crossing = [
            field
            for field in forwarding.response_headers(headers)
            if field[0] not in forwarding.HANDSHAKE and field[0] != b"content-length"
        ]
        return Accepted(chosen or None, extensions, crossing)

    def excerpt(self, data: bytes) -> str:
        """The first bytes of an answer for the log, without this request's own token and cookie values."""
        data = secrets.masked(data, self._secrets)
        return repr(data[:_EXCERPT].decode(errors="backslashreplace"))

    @property
    def excerpt_size(self) -> int:
        """Bytes to read for an excerpt: a secret that begins inside it must be complete to be masked."""
        return _EXCERPT + min(max(map(len, self._secrets), default=0), 16384)

    @property
    def _secrets(self) -> list[bytes]:
        return secrets.of_handshake(self.scope, self.who)
