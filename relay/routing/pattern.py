"""Route paths in Django's syntax: parsed once, matched in linear time. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

from relay.routing import paths

# As in django.urls.converters: the syntax is Django's, and must mean the same here.
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
    """A parsed route path: a literal beginning, then placeholders and the literals between them.

    All possible matches are followed at once, so matching takes time proportional to the path. A regular expression
    tries them one by one: with ``<slug:a>-<slug:b>-<slug:c>`` a stranger could keep it busy for minutes.
    """

    literal: str
    parts: tuple[str | re.Pattern[str], ...]
    is_prefix: bool

    def end(self, path: str) -> int | None:
        """Where the match ends, or None: at the end of the path or, for a prefix, before the last possible slash."""
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
    """Every position where a placeholder starting at one of `starts` can end; both in ascending order."""
    ends: list[int] = []
    repeats = converter.pattern.endswith("+")  # any part of a run matches too; a uuid must be complete
    run = 0
    for start in starts:
        if repeats and start < run:
            continue  # a start inside a run has the same ends
        if found := converter.match(path, start):
            run = found.end()
            ends += range(start + 1, run + 1) if repeats else (run,)
    return ends


def compile_path(path: str) -> Pattern:
    """Parse a route's path: exact, or a prefix that ends at a segment.

    Raises:
        ValueError: The path uses a converter unknown to Django, or a name that is invalid or repeated.
    """
    literal, *rest = paths.PLACEHOLDER.split(path.removesuffix("/"))
    parts: list[str | re.Pattern[str]] = []
    names: set[str] = set()
    for kind, name, literal_after in zip(rest[0::3], rest[1::3], rest[2::3], strict=True):
        if (kind or "str") not in _CONVERTERS:
            raise ValueError(f"{path!r} uses the converter {kind!r}; known are {', '.join(_CONVERTERS)}")
        if not name.isidentifier() or name in names:
            raise ValueError(f"{path!r}: {name!r} must be a valid name, used once")
        names.add(name)
        parts += [_CONVERTERS[kind or "str"], literal_after]
    return Pattern(literal, tuple(parts), path.endswith("/"))
