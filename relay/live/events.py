"""The log's events, with the same field names everywhere (contract, section 9). Pure.

====================  =======  ==========================================================================
event                 level    when
====================  =======  ==========================================================================
``http.request``      INFO     a request was answered: by the backend, one of our pages or the admin
``http.refused``      INFO     a request was refused; WARNING if the status is 5xx
``ws.open``           INFO     a WebSocket was accepted
``ws.close``          INFO     a WebSocket ended: the summary of its life
``ws.refused``        INFO     a handshake was refused; WARNING if the status is 5xx
``backend.error``     WARNING  a backend failed: the exact cause
``config.changed``    INFO     a new configuration is in force
``config.stale``      WARNING  the database can't be read: the last good configuration stays in force
``auth.revoked``      INFO     a token or a user was revoked
``server.start``      INFO     the server listens
``server.drain``      INFO     the server stops accepting work
====================  =======  ==========================================================================

Fields that are None are left out of the line; durations are in milliseconds; paths lose their query. No event has a
field for a token, a ticket or a cookie; `relay.live.masking` covers what a peer hides in another.
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct, structs

from relay.typing import ClosedBy

_LONGEST_PATH = 2048  # characters


def milliseconds(seconds: float) -> float:
    """A duration as it is logged: to a tenth of a millisecond."""
    return int(seconds * 10_000 + 0.5) / 10  # round() takes five times as long


def without_query(path: str) -> str:
    """A path as it is logged: without the query, and not too long to read."""
    return path.partition("?")[0][:_LONGEST_PATH]


class Event(Struct, kw_only=True, omit_defaults=True, gc=False):
    """What all events share; `relay.live.log.tell` sets the attributes.

    Attributes:
        time: When it happened, if not just now: RFC 3339 in UTC, to the millisecond.
        level: As in `logging`: its name.
        pid: Of the process, if it is one of several workers.
        event: The event's name.
        trace_id: Of the trace that it belongs to, if requests are traced.
        name: The name of events of this class.
        is_trouble: Whether the admin shows it as well, even if the log level hides it.
    """

    time: str | None = None
    level: str | None = None
    pid: int | None = None
    event: str | None = None
    trace_id: str | None = None

    name: ClassVar[str]
    is_trouble: ClassVar[bool] = False

    @property
    def is_warning(self) -> bool:
        """Whether its level is WARNING, not INFO."""
        return False

    @property
    def fields(self) -> dict[str, Any]:
        """The known fields by name, as in the line."""
        return {name: value for name, value in structs.asdict(self).items() if value is not None}


class _Request(Event, kw_only=True):
    """About a request, or a handshake (without `method`); None is what was not known yet when it ended."""

    request_id: str
    client: str
    user_id: str | None = None
    method: str | None = None
    path: str
    route: str | None = None
    backend: str | None = None

    def __post_init__(self) -> None:
        if "?" in self.path or len(self.path) > _LONGEST_PATH:
            self.path = without_query(self.path)


class HttpRequest(_Request, kw_only=True):
    """The response was sent completely, or broke off.

    Attributes:
        url: The backend's url that answered, if it has several.
        duration_ms: From the request's head to the end of the response.
        bytes_to_backend: Bytes of the request's body.
        bytes_to_client: Bytes of the response's body.
    """

    name: ClassVar[str] = "http.request"

    url: str | None = None
    status: int
    duration_ms: float
    bytes_to_backend: int
    bytes_to_client: int


class Refused(_Request, kw_only=True):
    """A request or handshake was refused; `detail` says what was compared with what.

    Attributes:
        close_code: Of a handshake that was accepted and then closed.
    """

    is_trouble: ClassVar[bool] = True

    status: int
    close_code: int | None = None
    code: str
    detail: str
    duration_ms: float

    @property
    def is_warning(self) -> bool:
        """A refusal is the client's problem, unless the status says that it is ours or the backend's."""
        return self.status >= 500


class HttpRefused(Refused, kw_only=True):
    """A request was refused."""

    name: ClassVar[str] = "http.refused"


class WsOpen(_Request, kw_only=True):
    """A WebSocket was accepted.

    Attributes:
        url: The backend's url that accepted it, if it has several.
        duration_ms: Of the handshake, including the backend's.
    """

    name: ClassVar[str] = "ws.open"

    url: str | None = None
    origin: str | None = None
    subprotocol: str | None = None
    duration_ms: float


class WsClose(Event, kw_only=True):
    """A WebSocket ended.

    Attributes:
        close_code: As the client sent or got it; 1005: a close frame without a code, 1006: no frame (RFC 6455 §7.4.1).
        reason: The close frame's reason.
        detail: What happened, if the code alone doesn't say it.
        bytes_to_backend: Payload bytes; see `relay.typing.Traffic`.
    """

    name: ClassVar[str] = "ws.close"

    request_id: str
    client: str
    user_id: str | None = None
    route: str
    backend: str
    close_code: int
    closed_by: ClosedBy
    reason: str | None = None
    detail: str | None = None
    duration_ms: float
    messages_to_backend: int
    messages_to_client: int
    bytes_to_backend: int
    bytes_to_client: int


class WsRefused(Refused, kw_only=True):
    """A handshake was refused."""

    name: ClassVar[str] = "ws.refused"


class BackendError(Event, kw_only=True):
    """A backend failed a request, a handshake or a health check; `detail` is the exact cause."""

    name: ClassVar[str] = "backend.error"
    is_trouble: ClassVar[bool] = True

    request_id: str | None = None
    client: str | None = None
    user_id: str | None = None
    route: str | None = None
    backend: str
    code: str
    phase: str | None = None
    detail: str
    duration_ms: float | None = None

    @property
    def is_warning(self) -> bool:
        return True


Trouble = Refused | BackendError


class ConfigChanged(Event, kw_only=True):
    """A new configuration is in force, with the numbers of its rows and of the sockets that it closed.

    Attributes:
        changed: The rows that differ from the previous configuration; None for the first.
    """

    name: ClassVar[str] = "config.changed"

    revision: int
    backends: int
    routes: int
    origins: int
    changed: str | None = None
    sockets_closed: int


class ConfigStale(Event, kw_only=True):
    """The configuration in force was last read `age_seconds` ago; `detail` says why not since."""

    name: ClassVar[str] = "config.stale"

    age_seconds: float
    detail: str

    @property
    def is_warning(self) -> bool:
        return True


class AuthRevoked(Event, kw_only=True):
    """A revocation came into force, and closed `sockets_closed` sockets.

    Attributes:
        kind: ``user``, ``jti`` or ``token``.
        value: The user's id, the jti, or the token's fingerprint.
    """

    name: ClassVar[str] = "auth.revoked"

    sockets_closed: int
    kind: str
    value: str


class ServerStart(Event, kw_only=True):
    """The server accepts connections at `listening`."""

    name: ClassVar[str] = "server.start"

    version: str
    pid: int
    listening: str
    workers: int


class ServerDrain(Event, kw_only=True):
    """No new work is accepted; current work has `seconds` to finish."""

    name: ClassVar[str] = "server.drain"

    sockets: int
    requests: int
    seconds: float
    signal: str
