"""`relay.routing.difference`: what the log says about a change of configuration."""

from __future__ import annotations

from dataclasses import replace

from relay.routing.difference import MOST, difference
from relay.routing.snapshot import Backend, Origin, Route, Snapshot, Url

MAIN = Backend("main", (Url.parse("http://a"),))
API = Route("/api/", "http", "main")
READ = Route("/api/", "http", "main", methods=("GET",))
SITE = Origin("https://a.example")


def test_rows_that_came_changed_and_went() -> None:
    before = Snapshot.build([MAIN], [API, READ], [SITE], 1)
    after = Snapshot.build([replace(MAIN, enabled=False)], [API, Route("/ws", "websocket", "main")], [], 2)
    assert difference(before, after) == [
        "+ route websocket /ws",
        "~ backend main",
        "- route http /api/ (GET)",
        "- origin https://a.example",
    ]


def test_saved_again_is_no_difference() -> None:
    assert difference(Snapshot.build([MAIN], [API], [SITE], 1), Snapshot.build([MAIN], [API], [SITE], 2)) == []


def test_a_large_import_is_not_a_large_line() -> None:
    found = difference(Snapshot(), Snapshot.build([], [], [Origin(f"https://a{n}.example") for n in range(MOST + 5)]))
    assert found[MOST:] == ["and 5 more"]
