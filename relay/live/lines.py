"""Turn each log record into one line on stdout: JSON for machines, or short text for people at a terminal.

An event of `relay.live.log` becomes a line of its fields; any other record becomes the event ``log`` with ``logger``,
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
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from select import PIPE_BUF
from types import MappingProxyType
from typing import Any, TextIO

import orjson

from relay.live import turn
from relay.live.log import Event
from relay.live.masking import Masker, suspects

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; any other was passed as ``extra``."""

_encode_ascii = json.JSONEncoder(separators=(",", ":"), default=str).encode


def _encode(fields: dict[str, object]) -> str:
    """JSON in ASCII. orjson takes a tenth of json's time, but leaves other characters as they are, or rejects them."""
    try:
        line = orjson.dumps(fields, default=str).decode()
    except TypeError:
        return _encode_ascii(fields)
    return line if line.isascii() and "\x7f" not in line else _encode_ascii(fields)


of_process: dict[str, object] = {}
"""Fields in every line that this process writes: a worker's ``pid``."""


def fields_of(record: logging.LogRecord, head: Mapping[str, object] = MappingProxyType({})) -> dict[str, object]:
    """`head`, then ``event`` and the fields of a record; None values are left out.

    An `Event` has a `fields` mapping. Our own modules' records include what they passed as ``extra``; a library's
    don't (Django passes whole requests).
    """
    given = record.__dict__.get("fields")
    if given is not None:
        fields = {**head, "event": record.msg, **given}
        for key in [key for key, value in given.items() if value is None]:
            del fields[key]
    else:
        fields = {**head, "event": "log", "logger": record.name, "message": record.getMessage()}
        if record.name.startswith("relay."):
            extra = {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}
            fields |= {key: value for key, value in extra.items() if key not in fields}
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
        self._second, self._text = 0, ""

    def format(self, record: logging.LogRecord) -> str:
        fields = fields_of(record, {"time": self._time(record), "level": record.levelname, **of_process})
        line = _encode(fields)
        return _encode(masked(fields, self._masker)) if suspects(line) else line

    def _time(self, record: logging.LogRecord) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return "%s.%03dZ" % (self._text, record.msecs)  # noqa: UP031  (a third faster)


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
        exception = str(fields.pop("exception", ""))
        event = str(fields.pop("event"))
        if event == "log":
            headline = [record.levelname, f"{fields.pop('logger')}:", printable(str(fields.pop("message")))]
        else:
            headline = [event, *(printable(str(fields.pop(key))) for key in _HEADLINE if key in fields)]
        said = " ".join([*headline, *(f"{key}={_value(value)}" for key, value in fields.items())])
        colour = _COLOURS.get(record.levelname, "") if self._colours else ""
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{stamp}.{int(record.created % 1 * 1000):03d} {colour}{said}{_RESET if colour else ''}"
        return "\n".join([line, *(f"    | {printable(part)}" for part in exception.splitlines())])


def _value(value: object) -> str:
    text = printable(str(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def printable(text: str) -> str:
    """The text with escapes for whatever could move the cursor, break the line or change the text direction."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class StdoutHandler(logging.Handler):
    """Writes lines to stdout, and survives its loss.

    The events of one turn of the event loop are written together, at its end: under load a turn has a dozen, and this
    halves the time. Any other record, and any warning, goes out at once, after the events that are waiting.

    A full pipe blocks the writer, as in any program: no line is lost. The loss of stdout is reported once on stderr,
    and never fails the request that logged. Lines bypass Python's buffer: what a failed write leaves there would fail
    again at exit, and change the exit status.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told = False
        self._waiting: deque[logging.LogRecord] = deque()
        self._flush_at_end = turn.AtEnd(self.flush)

    def handle(self, record: logging.LogRecord) -> bool:
        """As any handler's, but without its lock: only `flush` needs that."""
        if self.filters and not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if record.levelno >= logging.WARNING or not isinstance(record, Event):
            self.flush()
        else:
            self._flush_at_end()

    def flush(self) -> None:
        """Write the waiting records; `logging.shutdown` also calls this when the process ends."""
        self.acquire()
        try:
            lines = [self._line(self._waiting.popleft()) for _ in range(len(self._waiting))]
            if lines:
                for text in _packed(lines, _atomic(sys.stdout)):
                    _write(sys.stdout, text)
        except (OSError, ValueError, AttributeError) as exc:  # ValueError: stdout is closed; AttributeError: None
            self._lost(exc)
        finally:
            self.release()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + "\n"
        except Exception:  # an unformattable field is our bug: drop the line, not the request
            self.handleError(record)
            return ""

    def _lost(self, exc: Exception) -> None:
        if not self._told and sys.stderr is not None:
            self._told = True
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"can't write to stdout, log lines are lost: {exc}\n")


def _packed(lines: list[str], limit: int) -> Iterator[str]:
    """The lines, joined as far as they fit into `limit` characters."""
    pack: list[str] = []
    size = 0
    for line in lines:
        if pack and size + len(line) > limit:
            yield "".join(pack)
            pack, size = [], 0
        pack.append(line)
        size += len(line)
    yield "".join(pack)


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
