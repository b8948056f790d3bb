"""The paths of routes, in Django's syntax: taken apart once, matched in linear time. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

from relay.routing import paths

# Those of Django (django.urls.converters): it is their syntax, and both read it alike.
_CONVERTERS = MappingProxyType(
    {
        "int": re.compile(r"[0-9]+"),
        "path": re.compile(r".+"),
        "slug": re.compile(r"[-a-zA-Z0-9_]+"),
        "str": re.compile(r"[^/]+"),
        "uuid": re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    }
)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A route's path, taken apart: a literal beginning, then what stands for placeholders and between them.

    Every way through a path is followed at once, so a match takes time in proportion to the path. A regular expression
    tries them one by one: with ``<slug:a>-<slug:b>-<slug:c>`` a stranger could keep it busy for minutes.
    """

    literal: str
    parts: tuple[str | re.Pattern[str], ...]
    is_prefix: bool

    def end(self, path: str) -> int | None:
        """Where the match of a path ends, or None: at its end, or with a prefix before a slash, the last if several."""
        if not path.startswith(self.literal):  # nearly every pattern ends here
            return None
        ends = [len(self.literal)]
        for part in self.parts:
            if isinstance(part, str):
                ends = [at + len(part) for at in ends if path.startswith(part, at)]
            else:
                ends = _placeholder_ends(part, path, ends)
            if not ends:
                return None
        whole = len(path)
        return max((at for at in ends if at == whole or (self.is_prefix and path[at] == "/")), default=None)


def _placeholder_ends(converter: re.Pattern[str], path: str, starts: list[int]) -> list[int]:
    """Every place where a placeholder can end that begins at one of some places; both in ascending order."""
    ends: list[int] = []
    repeats = converter.pattern.endswith("+")  # any part of a run fits as well; a uuid is whole
    run = 0
    for start in starts:
        if repeats and start < run:
            continue  # what begins inside a run ends inside the same run
        if found := converter.match(path, start):
            run = found.end()
            ends += range(start + 1, run + 1) if repeats else (run,)
    return ends


def compile_path(path: str) -> Pattern:
    """Take a route's path apart: exact, or a prefix that ends at a segment.

    Raises:
        ValueError: The path names a converter that Django does not know, or a name twice.
    """
    literal, *rest = paths.PLACEHOLDER.split(path.removesuffix("/"))
    parts: list[str | re.Pattern[str]] = []
    names: set[str] = set()
    for kind, name, behind in zip(rest[0::3], rest[1::3], rest[2::3], strict=True):
        if (kind or "str") not in _CONVERTERS:
            raise ValueError(f"{path!r} uses the converter {kind!r}; there are {', '.join(_CONVERTERS)}")
        if not name.isidentifier() or name in names:
            raise ValueError(f"{path!r}: {name!r} must be a name, and used once")
        names.add(name)
        parts += [_CONVERTERS[kind or "str"], behind]
    return Pattern(literal, tuple(parts), path.endswith("/"))
