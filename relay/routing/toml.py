"""The configuration as a TOML file: read with all problems reported, written so that importing it changes nothing.

A table is a row of the database, and a key is one of its fields; ``url`` stands for ``urls`` with one entry. Types are
those of the model's fields; rules are those of the admin (`relay.revision.Counted.problems`).
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from django.db import models

from relay import validation
from relay.models import Backend, Counted, Origin, Route
from relay.routing import paths

Table = dict[str, Any]
"""One row as TOML has it: strings, numbers, booleans and lists of strings, by key."""

TABLES: Mapping[str, type[Counted]] = MappingProxyType({"backend": Backend, "route": Route, "origin": Origin})

_REQUIRED = MappingProxyType(
    {
        "name": 'name = "main"',
        "urls": 'url = "http://127.0.0.1:9000"',
        "path": 'path = "/api/"',
        "backend": 'backend = "main"',
        "origin": 'origin = "https://app.example.com"',
    }
)
"""Fields without a default, and how they are written."""

_ALWAYS = frozenset({"kind", "access", *_REQUIRED})
"""Keys that are written even if they have the default: without them a reader could not understand the file."""

_LISTS: Mapping[str, tuple[str, Callable[[str], tuple[str, ...]]]] = MappingProxyType(
    {"urls": ("\n", validation.lines), "methods": (",", validation.items), "roles": (",", validation.items)}
)
"""Fields that are a list in TOML and one text in the database: what joins it, and what splits it."""

_TYPES = MappingProxyType(
    {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table"}
)
_INTEGERS = range(-(2**63), 2**63)  # what TOML 1.0 promises to carry


class TomlError(Exception):
    """A file can't be applied; `problems` has one line for each reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(slots=True)
class Document:
    """The content of a file, as unsaved rows.

    Attributes:
        routes: Each with the name of its backend, in the file or in the database; empty if it has none.
        problems: One line for each thing to fix. Rows with problems are included.
    """

    backends: list[Backend] = field(default_factory=list)
    routes: list[tuple[Route, str]] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def rows(self) -> Iterator[Counted]:
        """All rows."""
        yield from self.backends
        yield from (route for route, _ in self.routes)
        yield from self.origins


def parse(text: str) -> Document:
    """Read a file. Never raises: all problems are in `Document.problems`."""
    document = Document()
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        document.problems.append(f"this is not TOML: {exc}")
        return document
    for name in tables:
        if name not in TABLES:
            document.problems.append(f"unknown table {quoted(name)}; {_suggestion(name, TABLES)}")
    for row, _ in _rows(Backend, tables, document.problems):
        document.backends.append(row)
    for row, entry in _rows(Route, tables, document.problems):
        backend = entry.get("backend")
        document.routes.append((row, backend if isinstance(backend, str) else ""))
    for row, _ in _rows(Origin, tables, document.problems):
        document.origins.append(row)
    return document


def _rows(model: type[Counted], tables: Table, problems: list[str]) -> list[tuple[Any, Table]]:
    """The rows of one kind, each with the table it was read from."""
    name = model._meta.model_name or ""
    entries = tables.get(name, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        problems.append(f"{name}: write [[{name}]], in double brackets, once for each {name}")
        return []
    rows, seen = [], set()
    for number, entry in enumerate(entries, 1):
        row, found = _row(model, entry)
        label = row.label if key(row)[0] else f"{name} #{number}"
        if key(row)[0] and key(row) in seen:
            found.append("it is listed twice; keep one")
        seen.add(key(row))
        problems += [f"{label}: {sentence}" for sentence in found]
        rows.append((row, entry))
    return rows


def _row(model: type[Counted], entry: Table) -> tuple[Counted, list[str]]:
    """One row, in normal form where valid, and its problems."""
    row, found = model(), list[str]()
    columns = {column.name: column for column in _columns(model)}
    judged = set()  # fields whose problem has been reported
    for name, value in entry.items():
        column = columns.get("urls" if name == "url" else name)
        if column is None:
            known = [*columns, "url"] if "urls" in columns else [*columns]
            found.append(f"unknown key {quoted(name)}; {_suggestion(name, known)}")
            continue
        try:
            read = _value(column, value, single=name == "url")
        except ValueError as exc:
            judged.add(column.name)
            found.append(f"{name}: {exc}")
            continue
        if not column.is_relation:
            setattr(row, column.name, read)
    if "url" in entry and "urls" in entry:
        judged.add("urls")
        found.append("url and urls are both set; keep one")
    for name in [name for name in columns if name in _REQUIRED and name not in judged]:
        written = "url" if name == "urls" and "urls" not in entry else name
        if not entry.get(written):
            judged.add(name)
            found.append(f"{written} is missing; write for example {_REQUIRED[name]}")
    for name, sentence in row.problems():
        if name not in judged:
            found.append(f"{'url' if name == 'urls' and 'url' in entry else name}: {sentence}")
    return row, found


def _columns(model: type[Counted]) -> list[models.Field[Any, Any]]:
    return [column for column in model._meta.fields if not column.primary_key]


def _value(column: models.Field[Any, Any], value: Any, single: bool) -> Any:
    """A TOML value as the model has it.

    Args:
        single: The value is the only entry of a list (``url``).

    Raises:
        ValueError: It is of another type than the field.
    """
    if column.name in _LISTS:
        return _joined(column.name, [_typed(value, str)] if single else _typed(value, list))
    if isinstance(column, models.BooleanField):
        return _typed(value, bool)
    if isinstance(column, models.FloatField):
        return _typed(value, int, float)
    if isinstance(column, models.IntegerField):
        return _typed(value, int)
    return _typed(value, str)


def _typed(value: Any, *types: type) -> Any:
    if type(value) not in types:  # not isinstance: a boolean is not an integer
        expected = " or ".join(_TYPES[t] for t in types)
        raise ValueError(f"this is {_TYPES.get(type(value), 'a date or time')}; write {expected}")
    if isinstance(value, int) and value not in _INTEGERS:
        raise ValueError("this integer is too large")
    return value


def _joined(name: str, values: Sequence[Any]) -> str:
    """A list as one text; an entry that would not come back as itself is refused."""
    joint, split = _LISTS[name]
    for value in values:
        if split(_typed(value, str)) != (value.strip(),):
            what = "a comma" if joint == "," else "a line break"
            raise ValueError(f"an entry is empty or contains {what}; write each entry separately")
    return joint.join(values)


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {quoted(near[0])}?" if near else f"there are {', '.join(known)}"


def key(row: Counted) -> tuple[str, ...]:
    """What identifies a row in the file and in the database; the first part is never empty in a valid row.

    The names of placeholders in a route's path don't count: they don't change what it matches.
    """
    if isinstance(row, Route):
        return paths.shape(row.path), row.kind, row.methods
    return (str(row),)


def table(row: Counted, backend: str = "") -> Table:
    """A row as a TOML table, with every key except ``url``.

    Args:
        backend: The name of a route's backend.
    """
    entries: Table = {}
    for column in _columns(type(row)):
        value = backend if column.is_relation else getattr(row, column.name)
        entries[column.name] = list(_LISTS[column.name][1](value)) if column.name in _LISTS else value
    return entries


def lines(row: Counted, backend: str = "") -> list[str]:
    """A row as ``key = value`` lines. Defaults are left out, except for what a reader has to know."""
    defaults = table(type(row)())
    said = {k: v for k, v in table(row, backend).items() if k in _ALWAYS or v != defaults[k]}
    one_url = len(said.get("urls", ())) == 1
    return [f"url = {text(v[0])}" if k == "urls" and one_url else f"{k} = {text(v)}" for k, v in said.items()]


def render(backends: Iterable[Backend], routes: Iterable[tuple[Route, str]], origins: Iterable[Origin]) -> str:
    """The whole configuration, in an order that depends only on its content."""
    rows: list[tuple[Counted, str]] = [
        *((row, "") for row in sorted(backends, key=key)),
        *sorted(routes, key=lambda pair: key(pair[0])),
        *((row, "") for row in sorted(origins, key=key)),
    ]
    blocks = ["\n".join([f"[[{row._meta.model_name}]]", *lines(row, backend), ""]) for row, backend in rows]
    return "\n".join(blocks)


def text(value: Any) -> str:
    """One value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else quoted(value)


def quoted(value: str) -> str:
    """A basic string. JSON's escapes are TOML's, except that TOML requires DEL to be escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
