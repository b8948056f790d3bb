"""What would happen to a request: the text of ``manage.py explain``. Pure; it uses the functions of the live path.

Nothing is sent. What only a real request has (its id, the client's address) is shown in angle brackets.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast
from urllib.parse import quote

from relay import access, door, forwarding
from relay.access import Ask, Denied, Grant
from relay.entry import Arrival, field, port_of
from relay.forwarding import Forwarding
from relay.identity.model import Identification, Identity
from relay.live.masking import Masker
from relay.mends import MENDS
from relay.routing import paths
from relay.routing.snapshot import Route, Snapshot, Url
from relay.typing import Kind, RawHeaders, Scope
from relay.validation import is_parsed
from relay.websocket.opening import Opening

METHODS = (
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
    "ACL", "BIND", "CHECKOUT", "COPY", "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL",
    "MOVE", "NOTIFY", "PROPFIND", "PROPPATCH", "PURGE", "QUERY", "REBIND", "REPORT", "SEARCH", "SOURCE", "SUBSCRIBE",
    "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
)  # fmt: skip
"""Methods offered for selection, the common ones first; any other that the server parses works too."""

_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")  # RFC 9110 §5.6.2, §5.5
_LABELLED = 11  # columns of the labels on the left


@dataclass(frozen=True, slots=True)
class Question:
    """A hypothetical request.

    Attributes:
        scope: The ASGI scope that a server would pass to the application.
    """

    scope: Scope
    ask: Ask
    arrival: Arrival


def question(
    method: str,
    target: str,
    *,
    websocket: bool = False,
    origin: str | None = None,
    token: str | None = None,
    fields: Iterable[str] = (),
    host: str = "localhost",
) -> Question:
    """Build a question from user input.

    Args:
        target: Path, optionally with a query; characters not allowed in a request line are percent-encoded.
        fields: More header fields, as ``Name: value``.
        host: Used unless the fields include one.

    Raises:
        ValueError: Such a request can't be sent; the message says why, and what to write instead.
    """
    typed, method = method, method.upper()
    if not is_parsed(method):
        if typed.startswith("/"):
            raise ValueError(f"METHOD comes first: explain GET {typed}")
        raise ValueError(f"METHOD: {typed[:80]!r} is not a method that the server knows; it answers 400")
    if websocket and method != "GET":
        raise ValueError(f"METHOD: a WebSocket begins with GET, not {method} (RFC 6455 §4.1)")
    path, mark, query = target.partition("?")
    if not path.startswith("/"):
        meant = " without scheme and host" if "://" in path else ", which begins with a slash"
        raise ValueError(f"PATH: {target!r} is not a path; give the path{meant}, for example /api/users")
    headers = [_field(field) for field in fields]
    names = {name for name, _ in headers}
    if b"host" not in names:
        headers.insert(0, (b"host", host.encode()))
    if websocket:
        headers += [(b"upgrade", b"websocket"), (b"connection", b"Upgrade")]
    headers += [_field(f"Origin: {origin}")] if origin is not None else []
    headers += [_field(f"Authorization: Bearer {token}")] if token is not None else []
    scope: Scope = {
        "type": "websocket" if websocket else "http",
        "method": method,
        "path": paths.decode(raw := quote(path, safe="/%:@!$&'()*+,;=~#\\").encode()),
        "raw_path": raw,
        "query_string": quote(query, safe="/%:@!$&'()*+,;=~?").encode(),
        "headers": headers,
        "client": None,
        "extensions": {"relay.empty_query": {}} if mark and not query else {},
    }
    own_host = next(value.decode("latin-1") for name, value in headers if name == b"host")
    port = port_of(own_host, "http")
    return Question(
        scope,
        Ask(cast("Kind", scope["type"]), method, raw, field(headers, b"origin"), own_host),
        Arrival("<one per request>", "<client address>", "<client address>", False, "http", own_host, port, 0.0),
    )


def _field(text: str) -> tuple[bytes, bytes]:
    found = _FIELD.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text.partition(':')[0][:80]!r} is not a header field; write 'Name: value', on one line")
    return found[1].lower().encode(), found[2].strip().encode()


def explain(
    asked: Question,
    snapshot: Snapshot,
    who: Identification,
    rules: Forwarding,
    now: float,
    *,
    own: bool = False,
) -> str:
    """What would happen to a request, as aligned text. Tokens and cookie values are masked.

    Args:
        who: The client, as identified from the request.
        now: Unix time.
        own: Whether the path is one of the gateway's own pages.
    """
    masker = Masker((rules.cookie, rules.query_param))
    ask = asked.ask
    query = asked.scope["query_string"].decode()
    target = masker.text(ask.raw_path.decode() + (f"?{query}" if query else ""))
    rows: list[tuple[str, str]] = [("asked", f"{'WebSocket' if ask.kind == 'websocket' else ask.method} {target}")]
    if refusal := door.judge(asked.scope, asked.arrival):
        return _aligned([*rows, *_denial_rows(ask, snapshot, Denied(refusal))])
    if own:
        return _aligned([*rows, ("answer", "this is a page of the gateway itself; routes don't apply")])
    verdict = access.decide(ask, snapshot, who)
    rows += _route_rows(ask, snapshot, verdict.route)
    rows += [("who", line) for line in _who(who, verdict.route, now)]
    if isinstance(verdict, Denied):
        rows += _denial_rows(ask, snapshot, verdict)
    else:
        rows += _grant_rows(asked, verdict, who, rules, masker)
    return _aligned(rows)


# Which route?


def _route_rows(ask: Ask, snapshot: Snapshot, route: Route | None) -> list[tuple[str, str]]:
    if route is None:
        return [("route", "none")]
    fitting = [other for other in snapshot.routes if other != route and other.enabled and _fits(other, ask)]
    beaten = [other for other in fitting if other.kind == ask.kind and other.serves(ask.method)]
    twins = [other for other in fitting if other.kind != ask.kind and not other.is_prefix]
    return [
        ("route", label(route)),
        *(("", f"more specific than {label(other)}") for other in beaten),
        *(("", f"not to be confused with {label(other)}: {_other_kind(other)}") for other in twins),
    ]


def label(route: Route) -> str:
    """A route on one line: path, kind, methods, who gets in, and the backend."""
    access_ = f"roles {' or '.join(route.roles)}" if route.access == "roles" else route.access
    facts = [route.kind, " ".join(route.methods), access_]
    return f"{route.path} ({', '.join(fact for fact in facts if fact)}) -> {route.backend}"


def nearest(ask: Ask, snapshot: Snapshot) -> list[str]:
    """The closest routes, and why each does not match."""
    lines = {route.path: line for route in snapshot.routes if _fits(route, ask) and (line := _why_not(route, ask))}
    known = {route.path: route for route in snapshot.routes if route.kind == ask.kind and route.enabled}
    for path in difflib.get_close_matches(paths.decode(ask.raw_path)[:200], known, 3, cutoff=0.5):
        lines.setdefault(path, f"{label(known[path])}: {_matches(known[path])}")
    if lines:
        return list(lines.values())
    if not known:
        return [f"there are no enabled {ask.kind} routes"]
    return [f"none is similar; the {ask.kind} routes are {', '.join(sorted(known)[:20])}"]


def _why_not(route: Route, ask: Ask) -> str:
    """Why a route whose path matches was not chosen; empty if nothing excludes it."""
    reasons = []
    if route.kind != ask.kind:
        reasons.append(_other_kind(route))
    elif not route.serves(ask.method):
        reasons.append(f"it does not serve {ask.method}")
    if not route.enabled:
        reasons.append("it is disabled")
    return f"{label(route)}: {' and '.join(reasons)}" if reasons else ""


def _other_kind(route: Route) -> str:
    return "it is for WebSockets (--websocket)" if route.kind == "websocket" else "it is for HTTP requests"


def _fits(route: Route, ask: Ask) -> bool:
    """Whether a route's path alone matches."""
    alone = Snapshot.build((), [replace(route, kind=ask.kind, methods=(), enabled=True)], ())
    return alone.match(ask.kind, ask.method, paths.decode(ask.raw_path)) is not None


def _matches(route: Route) -> str:
    if route.is_prefix:
        return f"it matches {route.path[:-1] or '/'} and everything that begins with {route.path}"
    return "it matches only paths of this pattern" if "<" in route.path else "it matches exactly this path"


# Who asks?


def _who(who: Identification, route: Route | None, now: float) -> list[str]:
    if who.identity is None:
        public = "; the route is public, so that does not matter" if route and route.access == "public" else ""
        return [f"nobody: {who.code}: {who.detail}{public}"]
    identity = who.identity
    role = f"role {identity.role}" if identity.role else "without a role"
    email = f" <{identity.email}>" if identity.email else ""
    return [f"user {identity.user_id}{email}, {role}; token in {who.place}", f"it expires {_moment(identity, now)}"]


def _moment(identity: Identity, now: float) -> str:
    left = identity.expires_at - now
    try:
        moment = datetime.fromtimestamp(identity.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        return "never, practically"
    return f"{moment}, in {_duration(left)}"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


# And?


def _denial_rows(ask: Ask, snapshot: Snapshot, verdict: Denied) -> list[tuple[str, str]]:
    refusal, route = verdict.refusal, verdict.route
    how = f"{refusal.status} {refusal.code}"
    if ask.kind == "websocket" and route and route.refuse_with == "close" and refusal.close_code:
        how = f'accepted, then closed with {refusal.close_code} {refusal.code} (refuse_with = "close")'
    rows = [("answer", f"refused: {how}"), ("why", refusal.detail)]
    if refusal.code == "no_route":
        rows += [("nearest", line) for line in nearest(ask, snapshot)]
    if refusal.code == "origin_not_allowed":
        allowed = [origin.origin for origin in snapshot.origins if origin.enabled]
        rows.append(("origins", ", ".join(allowed) or "none"))
    return [*rows, ("mend", MENDS[refusal.code])]


def _grant_rows(
    asked: Question, grant: Grant, who: Identification, rules: Forwarding, masker: Masker
) -> list[tuple[str, str]]:
    backend, url = grant.backend, grant.backend.urls[0]
    line, fields = _sent(asked, grant, who, rules, url)
    rows = [
        ("answer", "the backend's"),
        ("backend", f"{backend.name}: {' or '.join(u.text for u in backend.urls)}"),
        ("sends", masker.text(line)),
        *(("", masker.text(f"{name.decode()}: {value.decode('utf-8', 'replace')}")) for name, value in fields),
        ("limits", _limits(grant)),
    ]
    if grant.identity is None:
        rows.append(("note", "no X-User-* fields: the route is public, and there is no valid token"))
    if asked.ask.kind == "websocket":
        rows += [("note", note) for note in _origin_notes(asked, grant)]
    if who.place != "ticket" and b"ticket=" in asked.scope["query_string"]:
        rows.append(("note", "the ticket was not checked: it works only once"))
    rows.append(("next", f"run check_backends {backend.name} to actually connect"))
    return rows


def _sent(asked: Question, grant: Grant, who: Identification, rules: Forwarding, url: Url) -> tuple[str, RawHeaders]:
    """The request line and the header fields that the backend would get at this url."""
    scope, arrival = asked.scope, asked.arrival
    if asked.ask.kind == "websocket":
        opening = Opening(scope, arrival, grant, who, rules, forwarding.subprotocols(scope))
        line, *rest = opening.request(url, b"<one per handshake>").rstrip(b"\r\n").split(b"\r\n")
        return line.decode(), [cast("tuple[bytes, bytes]", tuple(field.split(b": ", 1))) for field in rest]
    target = forwarding.target(url, grant, rules.query(scope, grant, who))
    fields = [(b"host", forwarding.host(url, grant, arrival)), *rules.request_headers(scope, arrival, grant, who)]
    return f"{asked.ask.method} {target.decode()} HTTP/1.1", fields


def _limits(grant: Grant) -> str:
    backend, route = grant.backend, grant.route
    limits = [f"connect {backend.connect_timeout:g} s", f"head {_seconds(backend.read_timeout)}"]
    if route.kind == "http":
        limits.append(f"body {_size(backend.max_body_size)}")
    else:
        limits.append(f"message {_size(backend.max_message_size)}")
        limits.append(f"idle {_seconds(route.idle_timeout)}")
        limits.append(f"connections per user {route.max_connections_per_user or 'without limit'}")
    return ", ".join(limits)


def _seconds(value: float) -> str:
    return f"{value:g} s" if value else "without limit"


def _size(value: int) -> str:
    for size, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if value and value % size == 0:
            return f"{value // size} {unit}"
    return f"{value} bytes" if value else "without limit"


def _origin_notes(asked: Question, grant: Grant) -> Sequence[str]:
    rule = grant.backend.websocket_origin
    seen = forwarding.websocket_origin(asked.scope, grant)
    if rule == "omit":
        return [
            'the backend sees no Origin (websocket_origin = "omit"); most that check Origin accept that, but',
            'Django Channels and a few others answer with a bare 403: for them, set websocket_origin = "forward"',
        ]
    if seen is None:
        return ['websocket_origin = "forward", and there is no Origin to forward; try --origin']
    return [
        f'the backend sees Origin {seen.decode("latin-1")} (websocket_origin = "{rule}") and must allow it itself:',
        'a bare 403 from the backend means that it doesn\'t; websocket_origin = "omit" leaves Origin out',
    ]


def _aligned(rows: Iterable[tuple[str, str]]) -> str:
    """Rows as lines, each label shown once, on the left."""
    lines, last = [], None
    for name, text in rows:
        lines.append(f"{'' if name == last else name:<{_LABELLED}}{text}".rstrip())
        last = name
    return "\n".join(lines)
