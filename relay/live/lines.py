"""Turn each log record into one line on stdout: JSON for machines, or short text for people at a terminal.

An event (`relay.live.events`) becomes a line of its fields; any other record becomes the event ``log`` with ``logger``,
``message`` and, if there is one, ``exception``. No value can break a line or forge another: JSON is written in ASCII
with every control character escaped, and the console's text escapes them too.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from select import PIPE_BUF
from typing import Any, TextIO

import msgspec.json

from relay.live import log, turn
from relay.live.events import Event
from relay.live.log import EventRecord
from relay.live.masking import Masker, suspects

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; any other was passed as ``extra``."""

_encode_lines = msgspec.json.Encoder().encode_lines
_encode_ascii = json.JSONEncoder(separators=(",", ":"), default=str).encode


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """``time``, ``level``, ``event`` and the other known fields of a record.

    Our own modules' records include what they passed as ``extra``; a library's don't (Django passes whole requests).
    """
    if isinstance(record, EventRecord):
        return record.fields
    time = log.timestamp(int(record.created * 1000))
    fields: dict[str, object] = {"time": time, "level": record.levelname}
    if log.worker_pid is not None:
        fields["pid"] = log.worker_pid
    fields |= {"event": "log", "logger": record.name, "message": record.getMessage()}
    if record.name.startswith("relay."):
        taken = _STANDARD | fields.keys()
        fields |= {key: value for key, value in vars(record).items() if key not in taken and value is not None}
    if record.exc_info and record.exc_info[0] is not None:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


def masked(fields: dict[str, object], masker: Masker) -> dict[str, object]:
    """The fields without secrets; values other than text and numbers become text first."""
    return {key: value if isinstance(value, int | float) else masker.text(str(value)) for key, value in fields.items()}


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "event": …, …}``; the time is RFC 3339 in UTC, to the millisecond.

    Args:
        secret_names: The configured cookie and query parameter, in addition to the names that are always masked.
    """

    def __init__(self, secret_names: Iterable[str] = ()) -> None:
        super().__init__()
        self._masker = Masker(secret_names)

    def format(self, record: logging.LogRecord) -> str:
        fields = fields_of(record)
        line = _encode_ascii(fields)
        return _encode_ascii(masked(fields, self._masker)) if suspects(line) else line

    def plain(self, events: Sequence[Event]) -> str:
        """The lines of events, at a tenth of the cost; nothing if one of them needs escapes or may need masking."""
        try:
            lines = _encode_lines(events).decode()
        except Exception:  # a lone surrogate, or what msgspec can't encode: `format` can
            return ""
        return lines if lines.isascii() and "\x7f" not in lines and not suspects(lines) else ""


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"[^\s\"=]+")
_HEADLINE = ("code", "status", "close_code", "method", "path")
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31;1m"}
_RESET = "\x1b[0m"


class ConsoleFormatter(logging.Formatter):
    """``12:00:01.123 ws.refused origin_not_allowed /ws client=… detail="…"``, in local time.

    Args:
        secret_names: As in `JsonFormatter`.
        colours: Colour warnings and errors.
    """

    def __init__(self, secret_names: Iterable[str] = (), *, colours: bool = False) -> None:
        super().__init__()
        self._masker = Masker(secret_names)
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        fields = masked(fields_of(record), self._masker)
        moment = datetime.fromisoformat(str(fields.pop("time"))).astimezone()
        level, event = str(fields.pop("level")), str(fields.pop("event"))
        exception = str(fields.pop("exception", ""))
        if event == "log":
            headline = [level, f"{fields.pop('logger')}:", printable(str(fields.pop("message")))]
        else:
            headline = [event, *(printable(str(fields.pop(key))) for key in _HEADLINE if key in fields)]
        said = " ".join([*headline, *(f"{key}={_value(value)}" for key, value in fields.items())])
        colour = _COLOURS.get(level, "") if self._colours else ""
        line = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d} {colour}{said}{_RESET if colour else ''}"
        return "\n".join([line, *(f"    | {printable(part)}" for part in exception.splitlines())])


def _value(value: object) -> str:
    text = printable(str(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def printable(text: str) -> str:
    """The text with escapes for whatever could move the cursor, break the line or change the text direction."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class StdoutHandler(log.EventHandler):
    """Writes lines to stdout, and survives its loss.

    Events are written together: at the end of a turn of the event loop, but only every `turn.PAUSE` seconds, as a write
    costs more than the lines of a turn. A warning, and any other record, goes out at once, after what is waiting.

    A full pipe blocks the writer, as in any program: no line is lost. The loss of stdout is reported once on stderr,
    and never fails the request that logged. Lines bypass Python's buffer: what a failed write leaves there would fail
    again at exit, and change the exit status.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told = False
        self._waiting: deque[Event] = deque()
        self._flush_at_end = turn.AtEnd(self.flush, turn.PAUSE)

    def write(self, events: Sequence[Event]) -> None:
        self._waiting.extend(events)
        if any(event.is_warning for event in events):
            self.flush()
        else:
            self._flush_at_end()

    def emit(self, record: logging.LogRecord) -> None:
        self.flush()
        self._write(self._line(record))

    def flush(self) -> None:
        """Write the waiting events; `logging.shutdown` also calls this when the process ends."""
        self.acquire()
        try:
            events = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if events:
                self._write(self._lines(events))
        finally:
            self.release()

    def _lines(self, events: Sequence[Event]) -> str:
        """The lines of events; those that can't be made together are sought by halves."""
        if isinstance(self.formatter, JsonFormatter) and (plain := self.formatter.plain(events)):
            return plain
        if len(events) == 1:
            return self._line(EventRecord(events[0]))
        half = len(events) // 2
        return self._lines(events[:half]) + self._lines(events[half:])

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + "\n"
        except Exception:  # an unformattable field is our bug: drop the line, not the request
            self.handleError(record)
            return ""

    def _write(self, lines: str) -> None:
        try:
            for text in _packed(lines, _atomic(sys.stdout)):
                _write(sys.stdout, text)
        except (OSError, ValueError, AttributeError) as exc:  # ValueError: stdout is closed; AttributeError: None
            self._lost(exc)

    def _lost(self, exc: Exception) -> None:
        if not self._told and sys.stderr is not None:
            self._told = True
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"can't write to stdout, log lines are lost: {exc}\n")


def _packed(lines: str, limit: int) -> Iterator[str]:
    """The lines, in pieces of at most `limit` characters; a longer line is a piece of its own."""
    begin = 0
    while len(lines) - begin > limit:
        end = lines.rfind("\n", begin, begin + limit) + 1 or lines.index("\n", begin) + 1
        yield lines[begin:end]
        begin = end
    if begin < len(lines):
        yield lines[begin:]


def _atomic(stream: TextIO) -> int:
    """How much one write keeps together where others write, too: only a pipe has a limit (pipe(7))."""
    try:
        return PIPE_BUF if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode) else sys.maxsize
    except io.UnsupportedOperation:  # not a file: the output is being captured
        return sys.maxsize


def _write(stream: TextIO, line: str) -> None:
    try:
        fd = stream.fileno()
    except io.UnsupportedOperation:  # not a file: the output is being captured
        stream.write(line)
        return
    rest = memoryview(line.encode("utf-8", "backslashreplace"))
    while rest:  # usually one write(2); up to PIPE_BUF, it is not interleaved with another process's
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # another process that shares our end of the pipe made it non-blocking
            os.set_blocking(fd, True)


_QUIET = {
    # At DEBUG, and some at INFO, they log payloads, headers, and SQL with its parameters.
    "websockets": "WARNING",
    "asyncio": "WARNING",
    "django.db": "WARNING",
    "django.request": "ERROR",  # its WARNING repeats our own line of a 4xx answer
    "django.channels.server": "WARNING",
    "daphne": "WARNING",
    "twisted": "WARNING",
    "redis": "WARNING",
    "channels_redis": "WARNING",
    "urllib3": "WARNING",
    "uvicorn.access": "WARNING",  # repeats our own line of a request, with its query
}

_OWN_HANDLERS = ("django", "django.server", "uvicorn")
"""Loggers that come with their own handlers, whose lines would bypass our formatters."""


def configure(log_format: str, log_level: str, secret_names: Iterable[str] = ()) -> dict[str, Any]:
    """Django's ``LOGGING``.

    Args:
        log_format: ``json`` or ``console``; empty: ``console`` on a terminal.
        log_level: The lowest level that is written; loggers in `_QUIET` keep theirs if it is higher.
        secret_names: The configured cookie and query parameter, masked wherever they appear.
    """
    terminal = _on_a_terminal()
    console = log_format == "console" or (not log_format and terminal)
    formatter: dict[str, Any] = {"()": "relay.live.lines.JsonFormatter", "secret_names": tuple(secret_names)}
    if console:
        formatter |= {"()": "relay.live.lines.ConsoleFormatter", "colours": terminal}
    numbers = logging.getLevelNamesMapping()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stdout": {"class": "relay.live.lines.StdoutHandler", "formatter": "line"}},
        "root": {"handlers": ["stdout"], "level": log_level},
        "loggers": {
            **{name: {"handlers": [], "level": log_level, "propagate": True} for name in _OWN_HANDLERS},
            **{name: {"level": max(least, log_level, key=numbers.__getitem__)} for name, least in _QUIET.items()},
        },
    }


def _on_a_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # no stdout, or closed
        return False
