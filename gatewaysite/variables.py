"""Read variables from the environment, from files and from ``.env``, collecting every problem with them.

``NAME_FILE`` names a file that holds the value of ``NAME`` (container secrets). ``.env`` in the working directory is
read as well; real variables take precedence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values

T = TypeVar("T")


class SettingsError(Exception):
    """The environment can't be used; `problems` has one line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def environment(real: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The real variables, and those of the directory's ``.env`` that they don't set, as ``NAME`` or ``NAME_FILE``.

    Raises:
        SettingsError: ``.env`` exists but can't be read.
    """
    path = directory / ".env"
    try:
        found = dotenv_values(path, interpolate=False) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise SettingsError([f".env: can't read {path}: {reason}"]) from None
    set_here = {name.removesuffix("_FILE") for name in real}
    from_file = {k: v for k, v in found.items() if v is not None and k.removesuffix("_FILE") not in set_here}
    return {**from_file, **real}


class Reader:
    """Reads variables one by one and collects the problems found."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.problems: list[str] = []
        self._unreadable: set[str] = set()

    def text(self, name: str, default: str = "") -> str:
        """The value, or the content of the file that ``NAME_FILE`` names, without surrounding white space."""
        path, value = self.variables.get(f"{name}_FILE", ""), self.variables.get(name, default)
        if path:
            if self.variables.get(name):
                self.problems.append(f"{name}: {name} and {name}_FILE are both set; keep one")
            try:
                value = Path(path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as exc:
                reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
                return self._unread(name, f"{name}_FILE: can't read {path}: {reason}", default)
            if not value.strip():
                return self._unread(name, f"{name}_FILE: {path} is empty", default)
        if any("\ud800" <= c <= "\udfff" for c in value):  # how Python shows undecodable bytes
            return self._unread(name, f"{name}: its value is not UTF-8 text", default)
        return value.strip()

    def _unread(self, name: str, problem: str, default: str) -> str:
        self.problems.append(problem)
        self._unreadable.add(name)
        return default

    def required(self, name: str, sentence: str, *instead: str) -> None:
        """Report that a variable needs a value, unless it or an alternative was already reported as unreadable."""
        if self._unreadable.isdisjoint({name, *instead}):
            self.problems.append(f"{name}: required{sentence}")

    def parsed(self, name: str, parse: Callable[[str], T], default: T, expected: str) -> T:
        """The value as `parse` returns it; a ValueError from `parse` becomes a problem that says what is expected."""
        text = self.text(name)
        if not text:
            return default
        try:
            return parse(text)
        except ValueError:
            self.problems.append(f"{name}: {text!r} is not {expected}")
            return default

    def flag(self, name: str) -> bool:
        def parse(text: str) -> bool:
            if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
                raise ValueError
            return text.lower() in ("1", "true", "yes", "on")

        return self.parsed(name, parse, default=False, expected="1 or 0")

    def seconds(self, name: str, default: float) -> float:
        def parse(text: str) -> float:
            value = float(text)
            if not 0 <= value < 1e9:
                raise ValueError
            return value

        return self.parsed(name, parse, default, "a number of seconds, 0 or more")

    def words(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A comma-separated list."""
        text = self.text(name)
        return tuple(word.strip() for word in text.split(",") if word.strip()) if text else default

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        def parse(text: str) -> str:
            found = {c.lower(): c for c in choices}.get(text.lower())
            if found is None:
                raise ValueError
            return found

        return self.parsed(name, parse, default, "one of " + ", ".join(choices))
