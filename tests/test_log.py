"""relay.live.log, lines and masking: what is written, what never is, and that writing never fails a request."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from select import PIPE_BUF
from typing import Any

import pytest
from msgspec import structs

from relay.live import events, log
from relay.live.events import Event
from relay.live.lines import ConsoleFormatter, JsonFormatter, StdoutHandler, configure
from relay.live.masking import Masker, suspects
from relay.typing import Traffic

ROOT = Path(__file__).resolve().parent.parent
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoiTUFSS0VEIn0.c2lnbmF0dXJlLU1BUktFRA"
MARK = "MARKED-SECRET"

REQUEST = {"request_id": "r1", "client": "203.0.113.7", "user_id": "42"}
HTTP = {**REQUEST, "method": "GET", "path": "/api/x", "route": "/api/", "backend": "main"}
WS = {**REQUEST, "path": "/ws", "route": "/ws", "backend": "main"}
FACTS: dict[type[Event], dict[str, Any]] = {
    events.HttpRequest: {**HTTP, "status": 200, "duration_ms": 12.3, "bytes_to_backend": 0, "bytes_to_client": 17},
    events.HttpRefused: {**HTTP, "status": 401, "code": "no_token", "detail": "no token", "duration_ms": 1.0},
    events.WsOpen: {**WS, "origin": "https://a.example", "subprotocol": "chat", "duration_ms": 2.0},
    events.WsClose: {
        **{**REQUEST, "route": "/ws", "backend": "main", "close_code": 1000, "closed_by": "client", "reason": "bye"},
        **{"detail": "x", "duration_ms": 12500.0, **Traffic(1, 2, 3, 4)._asdict()},
    },
    events.WsRefused: {
        **{**WS, "status": 403, "close_code": 4403, "code": "origin_not_allowed"},
        **{"detail": "origin x is not on the list", "duration_ms": 1.0},
    },
    events.BackendError: {
        **{**REQUEST, "route": "/ws", "backend": "main", "code": "backend_refused"},
        **{"phase": "handshake", "detail": "answered 403", "duration_ms": 100.0},
    },
    events.ConfigChanged: {
        **{"revision": 7, "backends": 1, "routes": 2, "origins": 3, "changed": "+ x; - y", "sockets_closed": 4},
    },
    events.ConfigStale: {"age_seconds": 12.3, "detail": "database unreachable"},
    events.AuthRevoked: {"sockets_closed": 2, "kind": "user", "value": "42"},
    events.ServerStart: {"version": "0.1.0", "pid": 7, "listening": "http://127.0.0.1:8000", "workers": 2},
    events.ServerDrain: {"signal": "SIGTERM", "seconds": 20, "requests": 1, "sockets": 2},
}
EVENTS = [pytest.param(kind, facts, id=kind.name) for kind, facts in FACTS.items()]
KINDS = [pytest.param(kind, id=kind.name) for kind in FACTS]


def event(kind: type[Event], **facts: object) -> Event:
    """An event with other facts than usual."""
    return kind(**{**FACTS[kind], **facts})


def record(kind: type[Event], **facts: object) -> log.EventRecord:
    """The record of an event that has been told."""
    told = event(kind, **facts)
    told.time, told.level, told.event = "2026-11-22T12:00:00.123Z", "INFO", told.name
    return log.EventRecord(told)


@pytest.fixture
def observed() -> Iterator[list[Event]]:
    """Every event that is told, whatever becomes of it."""
    told: list[Event] = []
    log.observe(told.append)
    yield told
    log.observe(None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["INFO", "CRITICAL"])
def test_an_observer_hears_what_the_log_leaves_out(kind: type[Event], level: str, observed: list[Event]) -> None:
    """The event, once, at any level."""
    told = event(kind)
    before = log.logger.level
    log.logger.setLevel(level)
    try:
        log.tell(told)
    finally:
        log.logger.setLevel(before)
    assert observed == [told]
    assert observed[0].event == kind.name


class Lines(logging.Handler):
    """Collects what a formatter makes of every record."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))

    def one(self) -> dict[str, Any]:
        """The only line, read as JSON."""
        (line,) = self.written
        fields: dict[str, Any] = json.loads(line)
        return fields


@pytest.fixture(params=["json", "console"])
def lines(request):
    """Both formats."""
    yield from _listening(JsonFormatter(("auth_token",)) if request.param == "json" else ConsoleFormatter(()))


@pytest.fixture
def json_lines():
    yield from _listening(JsonFormatter())


@pytest.fixture
def console_lines():
    yield from _listening(ConsoleFormatter())


def _listening(formatter):
    handler, root, own = Lines(formatter), logging.getLogger(), logging.getLogger("relay")
    before = root.level, own.level, own.propagate
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    own.setLevel(logging.DEBUG)
    own.propagate = True
    yield handler
    root.removeHandler(handler)
    root.setLevel(before[0])
    own.setLevel(before[1])
    own.propagate = before[2]


# What an event looks like.


@pytest.mark.parametrize(("kind", "facts"), EVENTS)
def test_each_event_is_one_json_object_with_its_fields(json_lines, kind, facts):
    """Contract, section 9: the names of events and fields are what operators build on."""
    log.tell(kind(**facts))
    fields = json_lines.one()
    moment, level = fields.pop("time"), fields.pop("level")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    assert level in ("INFO", "WARNING")
    assert fields == {"event": kind.name, **facts}


@pytest.mark.parametrize(("kind", "facts"), EVENTS)
def test_an_event_is_the_same_line_alone_and_among_others(kind, facts):
    """The short way for many makes the very characters that the careful way makes for one."""
    formatter, told = JsonFormatter(), record(kind)
    assert formatter.plain([told.event]) == formatter.format(told) + "\n"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_known_is_left_out(json_lines, kind):
    """A refusal before there is a route names none; no field is null."""
    required = {field.name for field in structs.fields(kind) if field.required}
    given = {name: value for name, value in FACTS[kind].items() if name in required}
    log.tell(kind(**given))
    fields = json_lines.one()
    assert fields.keys() == {"time", "level", "event", *required}


@pytest.mark.parametrize(
    ("status", "level"), [pytest.param(403, "INFO", id="client"), pytest.param(502, "WARNING", id="backend")]
)
@pytest.mark.parametrize("kind", [events.HttpRefused, events.WsRefused])
def test_a_refusal_warns_when_it_is_not_the_clients_fault(json_lines, kind, status, level):
    """5xx is the operator's matter."""
    log.tell(event(kind, status=status))
    assert json_lines.one()["level"] == level


@pytest.mark.parametrize("kind", [events.HttpRequest, events.HttpRefused, events.WsOpen, events.WsRefused])
def test_paths_are_logged_without_their_query(lines, kind):
    """A query is where tokens and tickets travel."""
    log.tell(event(kind, path=f"/ws?q={MARK}"))
    assert MARK not in lines.written[0]
    assert "/ws" in lines.written[0]


def test_the_console_line_begins_with_what_matters(console_lines):
    """Time, event, code, status, path; then the rest by name, quoted where it has spaces."""
    log.tell(event(events.WsRefused, close_code=None, user_id=None))
    (line,) = console_lines.written
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} ws\.refused origin_not_allowed 403 /ws request_id=r1 client=203\.0\.113\.7 route=/ws"
        r' backend=main detail="origin x is not on the list" duration_ms=1\.0',
        line,
    )


# One event, one line.

CONTROLS = [
    pytest.param("\n", id="line feed"),
    pytest.param("\r\n", id="carriage return"),
    pytest.param("\x00", id="nul"),
    pytest.param("\x1b[2K\x1b[1A", id="terminal escape"),
    pytest.param("\x7f\x08", id="backspace"),
    pytest.param("\x85", id="next line (C1)"),
    pytest.param("\x9b31m", id="terminal escape (C1)"),
    pytest.param("\u2028\u2029", id="unicode line ends"),
    pytest.param("\u202e", id="right-to-left override"),
    pytest.param("\ud800", id="lone surrogate"),
]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()], ids=["json", "console"])
@pytest.mark.parametrize("of_event", [True, False], ids=["event", "log"])
def test_no_value_can_forge_a_line(formatter, of_event, control):
    """Whatever a client puts into a path or a header stays inside its field."""
    forged = f'x{control}{{"event":"forged"}}'
    made = logging.makeLogRecord({"name": "any", "msg": "%s", "args": (forged,)})
    if of_event:
        made = record(events.HttpRefused, path=forged, detail=forged, user_id=forged)
    line = formatter.format(made)
    assert line.isprintable()
    line.encode()


def test_json_gives_every_value_back_as_it_was(json_lines):
    """Escaping is not loss."""
    said = 'é \n \x00 \u2028 日本 "quoted" back\\slash'
    log.tell(event(events.BackendError, detail=said))
    assert json_lines.one()["detail"] == said


def test_a_traceback_on_the_console_stands_under_its_line(console_lines):
    """Indented and escaped, so that the text of an exception can't look like a line of ours."""
    try:
        raise ValueError("first\n12:00:00.000 ws.open forged\x1b[0m")
    except ValueError:
        logging.getLogger("anybody").exception("it failed")
    head, *rest = console_lines.written[0].split("\n")
    assert "ERROR anybody: it failed" in head
    assert rest
    assert all(part.startswith("    | ") and part.isprintable() for part in rest)


# What others write.


def test_any_librarys_record_becomes_a_line(json_lines):
    """With the event ``log``, and with its exception."""
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("library").exception("Internal Server Error: %s", "/x")
    fields = json_lines.one()
    assert (fields["event"], fields["level"], fields["logger"]) == ("log", "ERROR", "library")
    assert fields["message"] == "Internal Server Error: /x"
    assert fields["exception"].startswith("Traceback")
    assert "RuntimeError: boom" in fields["exception"]


def test_what_our_own_rooms_add_is_told(json_lines):
    """``extra`` of a record of ours is told, but can't replace what the line itself says."""
    logging.getLogger("relay.backends").warning("went", extra={"backend": "main", "up": False, "event": "forged"})
    fields = json_lines.one()
    assert (fields["event"], fields["backend"], fields["up"]) == ("log", "main", False)


def test_what_libraries_add_is_not_told(json_lines):
    """Django adds the whole request."""
    logging.getLogger("library").warning("Not Found", extra={"request": MARK})
    assert json_lines.one().keys() == {"time", "level", "event", "logger", "message"}


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "ERROR"])
def test_the_configuration_is_one_that_logging_takes(level):
    """And libraries that write payloads keep quiet at any level."""
    config = configure("json", level, ("auth_token",))
    logging.config.DictConfigurator(config)  # checks its shape
    for name in ("websockets", "asyncio", "django.db"):
        assert logging.getLevelNamesMapping()[config["loggers"][name]["level"]] >= logging.WARNING
    assert config["root"]["level"] == level


@pytest.mark.parametrize(
    ("log_format", "terminal", "expected"),
    [
        pytest.param("", False, "JsonFormatter", id="a pipe"),
        pytest.param("", True, "ConsoleFormatter", id="a terminal"),
        pytest.param("json", True, "JsonFormatter", id="json on a terminal"),
        pytest.param("console", False, "ConsoleFormatter", id="console into a pipe"),
    ],
)
def test_the_format_follows_the_terminal_unless_it_is_set(monkeypatch, log_format, terminal, expected):
    """``LOG_FORMAT``: json, console on a terminal; colours only there."""

    class Stdout(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, "stdout", Stdout())
    formatter = configure(log_format, "INFO")["formatters"]["line"]
    assert formatter["()"].endswith(expected)
    assert formatter.get("colours", False) is (terminal and expected == "ConsoleFormatter")


@pytest.mark.parametrize("level", ["DEBUG", "CRITICAL"])
def test_what_is_below_the_level_costs_no_line(json_lines, level):
    """The level is asked for first."""
    logging.getLogger("relay").setLevel(level)
    log.tell(*map(event, FACTS))
    assert len(json_lines.written) == (len(FACTS) if level == "DEBUG" else 0)


# Secrets.

SECRETS = [
    pytest.param(f"token {JWT} refused", JWT, id="a token anywhere"),
    pytest.param(f"/ws/{JWT}/x", JWT, id="a token in a path"),
    pytest.param(f"({JWT!r},)", JWT, id="a token in a repr"),
    pytest.param(f"GET /ws?a=1&token={MARK}&b=2 HTTP/1.1", MARK, id="the token parameter"),
    pytest.param(f"GET /ws?ticket={MARK} HTTP/1.1", MARK, id="the ticket parameter"),
    pytest.param(f"GET /ws?TOKEN={MARK}", MARK, id="in capitals"),
    pytest.param(f"GET /ws?access_token={MARK}", MARK, id="another parameter of that kind"),
    pytest.param(f"GET /ws?jeton={MARK}", MARK, id="the configured parameter"),
    pytest.param(f"biscuit={MARK}; theme=dark", MARK, id="the configured cookie"),
    pytest.param(f"Authorization: Bearer {MARK}", MARK, id="an Authorization line"),
    pytest.param(f"Authorization: Basic {MARK}", MARK, id="another scheme"),
    pytest.param(f"> authorization: bearer {MARK}", MARK, id="in small letters"),
    pytest.param(f"Bearer {MARK}", MARK, id="the scheme alone"),
    pytest.param(f"Sec-WebSocket-Protocol: chat, bearer.{MARK}", MARK, id="the subprotocol entry"),
    pytest.param(f"Cookie: theme=dark; sid={MARK}", MARK, id="a Cookie line"),
    pytest.param(f"Set-Cookie: sid={MARK}; HttpOnly", MARK, id="a Set-Cookie line"),
    pytest.param(repr([(b"host", b"x"), (b"cookie", f"a={MARK}".encode())]), MARK, id="ASGI headers"),
    pytest.param(repr([(b"authorization", f"Bearer {MARK}".encode())]), MARK, id="ASGI authorization"),
    pytest.param(repr({"Cookie": f"a={MARK}; b={MARK}"}), MARK, id="a dict of headers"),
    pytest.param(repr({"ticket": MARK, "path": "/ws"}), MARK, id="a ticket in a dict"),
    pytest.param(json.dumps({"previous": MARK}), MARK, id="a token in a body"),
    pytest.param(repr(f"GET /?token={MARK}\r\nCookie: a={MARK}\r\n\r\n".encode()), MARK, id="raw bytes"),
    pytest.param(f"token={MARK}\ncookie: x={MARK}", MARK, id="over several lines"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
@pytest.mark.parametrize("how", ["message", "argument", "exception", "field"])
def test_whatever_looks_like_a_secret_is_masked(text, secret, how):
    """In the messages, arguments and exceptions of any logger, and in the fields of ours, in both formats."""
    try:
        raise ValueError(text)
    except ValueError:
        error = sys.exc_info()
    made = {
        "message": lambda: logging.makeLogRecord({"name": "websockets.client", "msg": text}),
        "argument": lambda: logging.makeLogRecord({"name": "asyncio", "msg": "got %s", "args": (text,)}),
        "exception": lambda: logging.makeLogRecord({"name": "twisted", "msg": "failed", "exc_info": error}),
        "field": lambda: record(events.WsClose, reason=text),
    }
    for formatter in (JsonFormatter(("biscuit", "jeton")), ConsoleFormatter(("biscuit", "jeton"))):
        line = formatter.format(made[how]())
        assert secret not in line
        assert "***" in line


@pytest.mark.parametrize("secret", [pytest.param(JWT, id="token"), pytest.param(f"?token={MARK}", id="query")])
@pytest.mark.parametrize(("kind", "facts"), EVENTS)
def test_a_marked_token_passes_in_no_field(lines, kind, facts, secret):
    """Put into every text of an event; contract, section 9: never, at any level."""
    log.tell(kind(**{name: f"x{secret}" if isinstance(value, str) else value for name, value in facts.items()}))
    assert MARK not in lines.written[0]
    assert JWT not in lines.written[0]


@pytest.mark.parametrize(
    "text",
    [
        "no token in any place",
        "token in header: the signature matches no key",
        "different valid tokens in header and cookie",
        "the token came from a cookie, and there is no Origin",
        "origin https://evil.example is not on the list; nearest: https://app.example.com",
        "the token's role is user; /ws requires admin or staff",
        "127.0.0.1:9000: connection refused",
        "answered 403 Forbidden: Origin not allowed",
        "JWT_ALGORITHMS is HS256,HS384",
        "files.eu-central.example.com: name not found",
        "user_id=42 of ?sid=1",
    ],
)
def test_what_is_no_secret_is_left_alone(text):
    """A log that hides its own explanations helps nobody; nor does a cookie with a short name hide all the rest."""
    assert Masker(("auth_token", "id")).text(text) == text


@pytest.mark.parametrize(
    "piece", ["eyJ", "eyJ.", "bearer ", "cookie ", "cookie' ", "token' ", "token=", "' ", "a" * 64]
)
def test_searching_takes_time_in_proportion_to_the_text(piece):
    """A stranger decides what a path or an Origin holds, and must not be able to keep the gateway busy with it."""
    hostile = piece * (100_000 // len(piece))
    started = time.process_time()
    Masker(("auth_token",)).text(hostile)
    assert time.process_time() - started < 1  # what is quadratic takes a minute


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_line_is_not_searched(kind):
    """The quick look finds nothing in it, so that searching costs nothing (a line is written for every request)."""
    assert not suspects(JsonFormatter().format(record(kind)))


# Standard output.

PROGRAM = """
import logging.config, sys
from relay.live import lines, log
from relay.live.events import AuthRevoked, BackendError, ConfigStale
def revoked(n=0):
    return AuthRevoked(sockets_closed=n, kind="user", value="1")
def failed(detail, code="x"):
    return BackendError(backend="main", code=code, detail=detail)
stale = ConfigStale(age_seconds=1, detail="x")
logging.config.dictConfig(lines.configure({log_format!r}, "INFO"))
{body}
"""


def _start(body: str, log_format: str = "json", **streams: Any) -> subprocess.Popen[bytes]:
    program = PROGRAM.format(log_format=log_format, body=body)
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, **streams)


def _writes(body: str) -> list[bytes]:
    """What each write of a program holds: a pipe of packets keeps them apart."""
    reading, writing = os.pipe2(os.O_DIRECT)
    with _start(body, stdout=writing) as process:
        os.close(writing)
        writes = list(iter(lambda: os.read(reading, 65536), b""))
    os.close(reading)
    assert process.returncode == 0
    return writes


MANY = """
for n in range(3000):
    log.tell(failed(f"{n:06d}" + "." * 200))
"""


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "made non-blocking by another process"])
def test_a_full_pipe_makes_lines_wait_and_loses_none(blocking):
    """The reader comes late; the pipe holds 64 KiB, there is ten times as much to say."""
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    process = _start(MANY, stdout=writing)
    os.close(writing)
    with os.fdopen(reading) as pipe, process:
        first = pipe.readline()
        rest = pipe.readlines()
    assert [json.loads(line)["detail"][:6] for line in (first, *rest)] == [f"{n:06d}" for n in range(3000)]
    assert process.returncode == 0


def test_a_broken_stdout_fails_nobody_and_is_told_once():
    """Whoever read our log has gone; requests are answered all the same, and the exit status stays 0."""
    reading, writing = os.pipe()
    os.close(reading)
    process = _start(MANY, stdout=writing)
    os.close(writing)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 0
    assert errors.decode() == "can't write to stdout, log lines are lost: [Errno 32] Broken pipe\n"


def test_a_full_disk_fails_nobody():
    """The same for a file on a full disk."""
    with open("/dev/full", "wb") as full:
        process = _start(MANY, stdout=full)
        _, errors = process.communicate(timeout=50)
    assert process.returncode == 0
    assert errors.count(b"\n") == 1


def test_a_stdout_that_was_closed_fails_nobody():
    """Some supervisors start programs with closed streams: then Python has no sys.stdout."""
    process = _start("sys.stdout = None\n" + MANY, stdout=subprocess.DEVNULL)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 0
    assert errors.count(b"\n") == 1


def test_lines_of_threads_do_not_mix():
    """Each line is written whole."""
    body = """
import threading
import time
def write(name):
    for n in range(300):
        log.tell(failed("." * 500, name))
        log.tell(revoked(n))
threads = [threading.Thread(target=write, args=(str(n),)) for n in range(4)]
for t in threads: t.start()
for t in threads: t.join()
"""
    with _start(body, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=50)
    assert len([json.loads(line) for line in output.splitlines()]) == 2400


def test_the_events_of_one_turn_are_written_together():
    """In order, and never in a piece that another process' line could divide; a pipe of packets shows each write."""
    body = """
import asyncio
async def turn():
    for n in range(100):
        log.tell(revoked(n))
        if n == 49:  # a warning goes out at once, behind what waits
            log.tell(stale)
            assert not logging.getLogger().handlers[0]._waiting
asyncio.run(turn())
"""
    writes = _writes(body)
    assert len(writes) < 20
    assert all(len(written) <= PIPE_BUF and written.endswith(b"\n") for written in writes)
    said = [json.loads(line) for written in writes for line in written.splitlines()]
    assert [line.get("sockets_closed", "stale") for line in said] == [*range(50), "stale", *range(50, 100)]


def test_turns_that_follow_quickly_are_written_together():
    """The first at once, the others after a pause; and what still waits at the end of the program."""
    body = """
import asyncio
handler = logging.getLogger().handlers[0]
handler._flush_at_end._pause = 3600
async def turns():
    for n in range(3):
        log.tell(revoked(n))
        await asyncio.sleep(0)
        assert len(handler._waiting) == n
asyncio.run(turns())
"""
    writes = _writes(body)
    assert [[json.loads(line)["sockets_closed"] for line in each.splitlines()] for each in writes] == [[0], [1, 2]]


def test_the_pause_ends_by_itself():
    """What waits is written although nothing more happens."""
    body = """
import asyncio
handler = logging.getLogger().handlers[0]
async def turns():
    for n in range(2):
        log.tell(revoked(n))
        while handler._waiting:
            await asyncio.sleep(0)
asyncio.run(turns())
import os
os._exit(0)
"""
    with _start(body, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=50)
    assert [json.loads(line)["sockets_closed"] for line in output.splitlines()] == [0, 1]


ODD = [
    pytest.param({"path": "/a=b"}, id="a hint of a secret"),
    pytest.param({"path": f"/{JWT}"}, id="a secret"),
    pytest.param({"path": "/é"}, id="not ASCII"),
    pytest.param({"path": "/\x7f"}, id="a control"),
    pytest.param({"path": "/\ud800"}, id="a lone surrogate"),
    pytest.param({"bytes_to_client": 2**64}, id="a number of more than 64 bits"),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", range(5))
def test_one_odd_event_changes_no_other_line(capfd, odd, place):
    """Those that are written together may differ in what they need."""
    paths = [f"/{n}" for n in range(5)]
    told = [record(events.HttpRequest, path=path).event for path in paths]
    told[place] = record(events.HttpRequest, **odd).event
    handler = StdoutHandler()
    handler.setFormatter(JsonFormatter())
    handler.write(told)
    written = capfd.readouterr().out.splitlines()
    assert written == [JsonFormatter().format(log.EventRecord(each)) for each in told]
    assert JWT not in "".join(written)
    assert "".join(written).isascii()


def test_a_handler_with_a_filter_or_a_level_gets_records(lines):
    """As `logging` promises to any handler; so does every one if the logger has a filter."""
    told = [event(events.HttpRequest), event(events.HttpRefused, status=502)]
    handler = StdoutHandler()
    handler.setFormatter(JsonFormatter())
    handler.setLevel("WARNING")
    kept: list[logging.LogRecord] = []
    handler.addFilter(lambda each: kept.append(each) or False)
    log.logger.addHandler(handler)
    try:
        log.tell(*told)
    finally:
        log.logger.removeHandler(handler)
    assert [(each.getMessage(), each.levelname) for each in kept] == [("http.refused", "WARNING")]
    assert len(lines.written) == 2


def test_a_loop_that_stopped_holds_nothing_up():
    """What waited for its next turn goes out with the next line, and the next loop has turns of its own."""
    body = """
import asyncio
for n in range(3):
    loop = asyncio.new_event_loop()
    loop.call_soon(log.tell, revoked(n))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
async def told():
    log.tell(revoked(3))
    await asyncio.sleep(0)
    assert not logging.getLogger().handlers[0]._waiting
asyncio.run(told())
"""
    with _start(body, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    assert [json.loads(line)["sockets_closed"] for line in output.splitlines()] == [0, 1, 2, 3]


def test_the_events_of_the_last_turn_are_written_at_the_end():
    """The loop stops before its next turn."""
    body = """
import asyncio
loop = asyncio.new_event_loop()
loop.call_soon(log.tell, revoked())
loop.call_soon(loop.stop)
loop.run_forever()
loop.close()
"""
    with _start(body, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=50)
    assert json.loads(output)["event"] == "auth.revoked"


def test_a_field_that_cannot_be_written_costs_its_line_only():
    """A bug of ours must not become the client's 500."""
    body = """
class Broken:
    def __str__(self):
        raise RuntimeError("no text")
logging.getLogger("relay.x").warning("lost", extra={"field": Broken()})
log.tell(stale)
"""
    with _start(body, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in output.splitlines()] == ["config.stale"]


def test_colours_are_for_terminals():
    """On a pseudo-terminal the console format is chosen, and a warning coloured."""
    master, slave = pty.openpty()
    process = _start("log.tell(stale)", log_format="", stdout=slave)
    os.close(slave)
    shown = b""
    reader_done = threading.Event()

    def read() -> None:
        nonlocal shown
        try:
            while part := os.read(master, 4096):
                shown += part
        except OSError:  # how Linux tells that the other side of a terminal is gone
            pass
        reader_done.set()

    threading.Thread(target=read, daemon=True).start()
    process.communicate(timeout=50)
    assert reader_done.wait(10)
    os.close(master)
    assert b"\x1b[33mconfig.stale" in shown
    assert b"age_seconds=1" in shown
