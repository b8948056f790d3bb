"""Refusals and live sockets as rows: a stranger's text is masked, made printable and cut before it is stored."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from uuid import UUID

from relay.fleet.models import LiveConnection, RefusalRecord
from relay.live import events
from relay.live.lines import printable
from relay.live.masking import Masker
from relay.live.registry import LiveSocket

MOST_AT_ONCE = 50
"""Refusals kept per code between two writes; the newest are enough to recognise a flood.

Codes are counted separately: hundreds caused by a scanner must not hide the one refusal that somebody is looking for.
"""

_LONGEST = 2000  # characters of a text
_KINDS: dict[type[events.Event], RefusalRecord.Kind] = {
    events.HttpRefused: RefusalRecord.Kind.HTTP,
    events.WsRefused: RefusalRecord.Kind.WEBSOCKET,
}
_ORIGIN = re.compile(r"origin (.+) is not on the list; ", re.DOTALL)  # as written by relay.access.origin_refused

Clean = Callable[[object, int], str]
_Told = tuple[float, events.Trouble]  # when, and what


def cleaner(masker: Masker) -> Clean:
    """A function that makes a text safe to store and show: without secrets or control characters, and not too long."""
    return lambda text, longest: printable(masker.text(str(text if text is not None else "")))[:longest]


class Trouble:
    """Collects the latest refusals and failures until they are written; a listener of `relay.live.log`.

    Args:
        clock: Unix time.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._latest: defaultdict[str, deque[_Told]] = defaultdict(lambda: deque(maxlen=MOST_AT_ONCE))

    def note(self, event: events.Trouble) -> None:
        """Keep an event; called where it happens, so it must be fast."""
        self._latest[event.code].append((self._clock(), event))

    def take(self, process: str, clean: Clean) -> list[RefusalRecord]:
        """The records since the last call, in order.

        A backend's failure and the resulting refusal belong to one request, and become one record.
        """
        found: dict[object, RefusalRecord] = {}
        for at, event in self._drained():
            found[event.request_id or object()] = refusal(at, event, process, clean)
        return list(found.values())

    def _drained(self) -> list[_Told]:
        """Take all events, in order, while other threads may add more."""
        taken = [latest.popleft() for latest in list(self._latest.values()) for _ in range(len(latest))]
        return sorted(taken, key=lambda each: each[0])


def newest(rows: Iterable[RefusalRecord], most: int = MOST_AT_ONCE) -> list[RefusalRecord]:
    """The last `most` of each code, in order."""
    kept: list[RefusalRecord] = []
    seen: Counter[str] = Counter()
    for row in reversed(list(rows)):
        seen[row.code] += 1
        if seen[row.code] <= most:
            kept.append(row)
    return kept[::-1]


def refusal(at: float, event: events.Trouble, process: str, clean: Clean) -> RefusalRecord:
    """The row for an event of the log."""
    fields = event.fields
    origin = _ORIGIN.match(event.detail)
    return RefusalRecord(
        at=datetime.fromtimestamp(at, UTC),
        process=process,
        kind=_KINDS.get(type(event), RefusalRecord.Kind.BACKEND),
        code=event.code,
        status=fields.get("status"),
        close_code=fields.get("close_code"),
        request_id=clean(fields.get("request_id"), 128),
        method=clean(fields.get("method"), 40),
        path=clean(fields.get("path"), _LONGEST),
        origin=clean(origin[1] if origin else "", _LONGEST),
        client=clean(fields.get("client"), 64),
        user_id=clean(fields.get("user_id"), _LONGEST),
        route=clean(fields.get("route"), 500),
        backend=clean(fields.get("backend"), 64),
        detail=clean(event.detail, _LONGEST),
    )


def connection(socket: LiveSocket, process: UUID, clean: Clean) -> LiveConnection:
    """The row for a live socket."""
    identity = socket.identity
    return LiveConnection(
        id=socket.id,
        process_id=process,
        user_id=clean(identity.user_id, _LONGEST) if identity else "",
        email=clean(identity.email, _LONGEST) if identity else "",
        roles=[clean(role, _LONGEST) for role in identity.roles] if identity else [],
        client=clean(socket.client, 64),
        origin=clean(socket.origin, _LONGEST),
        route=socket.route.path,
        backend=socket.backend.name,
        url=socket.url.text,
        upstream_path=socket.route.upstream_path,
        fingerprint=identity.fingerprint if identity else "",
        jti=clean(identity.jti, _LONGEST) if identity else "",
        opened_at=datetime.fromtimestamp(socket.opened_at, UTC),
        expires_at=_moment(identity.expires_at) if identity else None,
        **socket.traffic._asdict(),
    )


def _moment(unix: float) -> datetime | None:
    """A datetime, or None if it is out of range: a token may claim to live for a million years."""
    try:
        return datetime.fromtimestamp(unix, UTC)
    except (ValueError, OverflowError, OSError):
        return None
