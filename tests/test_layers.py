"""Imports point down, in no circle, and the pure core stays pure: read from the source of `relay` and `gatewaysite`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS = (
    ("manage", "relay.management"),
    ("gatewaysite", "relay.server"),
    ("relay.gateway", "relay.tracing"),
    ("relay.runtime",),
    ("relay.admin", "relay.asking", "relay.checkup", "relay.explain", "relay.checks", "relay.apps"),
    ("relay.websocket", "relay.http", "relay.pages", "relay.fleet"),
    ("relay.forwarding", "relay.access", "relay.door"),
    ("relay.entry", "relay.identity"),
    ("relay.backends", "relay.shared"),
    ("relay.routing", "relay.rate"),
    ("relay.models", "relay.live", "relay.migrations"),
    ("relay.validation", "relay.revision", "relay.database", "relay.fleet.models"),
    ("relay.settings",),
    (
        "relay.routing.snapshot",
        "relay.routing.pattern",
        "relay.routing.paths",
        "relay.identity.model",
        "relay.identity.algorithms",
    ),
    ("relay.refusals", "relay.mends", "relay.typing", "relay"),
)
"""Rooms, top to bottom. Rooms of one floor may know each other, but not in a circle.

Below the rooms lie the values that all of them speak of: a snapshot, a path, an identity, a setting.
"""

PURE = (
    "relay.refusals",
    "relay.routing.snapshot",
    "relay.routing.pattern",
    "relay.routing.paths",
    "relay.access",
    "relay.forwarding",
    "relay.websocket.close_codes",
    "relay.websocket.frames",
)
"""As `relay` says of itself: no await, no log, no ORM, also in what they import."""

IMPURE = (
    "asyncio",
    "logging",
    "socket",
    "ssl",
    "threading",
    "subprocess",
    "channels",
    "django",
    "twisted",
    "uvloop",
)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of ours by its dotted name."""
    paths = [ROOT / "manage.py", *(path for top in ("relay", "gatewaysite") for path in (ROOT / top).rglob("*.py"))]
    return {_dotted(path): ast.parse(path.read_text(), str(path)) for path in paths}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(name: str) -> frozenset[str]:
    """What a module imports when it runs, also inside its functions; ours by module, not by the names in it."""
    return frozenset(_imported(modules()[name]))


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            yield inside if inside in modules() else str(node.module)
    for child in children:
        yield from _imported(child)


def our_imports(name: str) -> list[str]:
    return sorted(imports(name) & modules().keys() - {name})


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


@cache
def room_of(name: str) -> str:
    """The room that says most about where a module lies; the package `relay` itself is a room, not what lies in it."""
    rooms = [room for floor in FLOORS for room in floor if is_in(name, room) and (room != "relay" or name == "relay")]
    return max(rooms, key=len, default="")


def floor_of(name: str) -> int:
    """Counted from the ground."""
    return next(n for n, floor in enumerate(reversed(FLOORS)) if room_of(name) in floor)


def circle(edges: dict[str, list[str]]) -> list[str]:
    """A circle of a graph as the names along it; empty if there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for target in edges.get(name, ()):
                if found := walk(target, [*way, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in edges if (found := walk(name, []))), [])


def test_every_module_has_its_floor() -> None:
    """A new room says where it belongs."""
    assert [name for name in modules() if not room_of(name)] == []


def test_imports_point_down() -> None:
    """`management` is the roof, values are the ground; nobody knows who lives above."""
    upward = [
        f"{name} (floor {floor_of(name)}) imports {target} (floor {floor_of(target)})"
        for name in modules()
        for target in our_imports(name)
        if floor_of(target) > floor_of(name)
    ]
    assert upward == []


def test_no_circle_of_modules() -> None:
    """Not even one that a lazy import inside a function would hide."""
    assert circle({name: our_imports(name) for name in modules()}) == []


def test_no_circle_of_rooms() -> None:
    """Rooms of one floor may know each other in one direction."""
    edges: dict[str, list[str]] = {}
    for name in modules():
        targets = {room_of(target) for target in our_imports(name)} - {room_of(name)}
        edges[room_of(name)] = sorted({*edges.get(room_of(name), ()), *targets})
    assert circle(edges) == []


def reached(name: str) -> set[str]:
    """A module of ours, and all that it imports of ours, directly or not."""
    found: set[str] = set()
    todo = [name]
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += our_imports(name)
    return found


def waits(name: str) -> bool:
    kinds = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    return any(isinstance(node, kinds) for node in ast.walk(modules()[name]))


@pytest.mark.parametrize("name", PURE)
def test_the_core_is_pure(name: str) -> None:
    """Decisions can be tested as tables, and read without thinking of what happens meanwhile."""
    for module in reached(name):
        assert not waits(module), f"{module} waits"
        impure = [target for target in imports(module) if any(is_in(target, room) for room in IMPURE)]
        assert impure == [], f"{name} reaches {module}, and that imports {impure}"


def test_what_calls_itself_pure_does_not_wait_or_log() -> None:
    """A module says so with the word in its docstring's first paragraph."""
    for name, tree in modules().items():
        first_paragraph = (ast.get_docstring(tree) or "").split("\n\n")[0]
        if "Pure" in first_paragraph.replace(".", " ").replace(";", " ").replace(":", " ").split():
            impure = imports(name) & {"asyncio", "logging", "threading", "subprocess", "django.db", "relay.models"}
            assert impure == set(), f"{name} imports {impure}"
            assert not waits(name), f"{name} waits"


def test_the_server_serves_any_application() -> None:
    """It knows refusals, the log and its own rooms; neither routes nor models, nor who is allowed what."""
    known = ("relay.server", "relay.live", "relay.refusals", "relay.typing")
    strange = {
        target
        for name in modules()
        if is_in(name, "relay.server")
        for target in our_imports(name)
        if not any(is_in(target, room) for room in known)
    }
    assert strange == set()


def test_a_circle_is_found() -> None:
    """The check itself: nothing is proved by a search that finds nothing anywhere."""
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) == []
    tree = ast.parse("if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f():\n    from c import d")
    assert set(_imported(tree)) == {"b", "c"}
