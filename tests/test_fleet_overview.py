"""relay.fleet.overview: many processes in one picture, and what an operator should look at first."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from relay.fleet.figures import Figures
from relay.fleet.overview import overview
from relay.models import Backend, Process, RefusalRecord, Revision, Sample
from tests.fleet_helpers import IDLE, process

pytestmark = pytest.mark.django_db

UP = {"url": "http://a", "up": True, "in_use": 2, "cause": ""}
OUT = {"url": "http://a", "up": False, "in_use": 0, "cause": "/up answered 500"}


def figures(**changes: Any) -> Figures:
    return {**IDLE, **changes}  # type: ignore[typeddict-item]


def backend(*urls: dict[str, Any], answers: tuple[tuple[int, int], ...] = ()) -> dict[str, Any]:
    return {"main": {"urls": list(urls), "answers": [list(each) for each in answers]}}


def sample(slot: int, **changes: Any) -> Sample:
    counts = {"sockets": 1, "requests": 2, "errors": 0, "messages": 3, "refusals": {}}
    return Sample.objects.create(**{"process": uuid4(), "slot": slot, **counts, **changes})


@pytest.fixture
def main() -> Backend:
    return Backend.objects.create(name="main", urls="http://a", health_path="/up")


def problems() -> list[str]:
    return [problem["text"] for problem in overview()["problems"]]


def test_the_living_are_added_up(main: Backend) -> None:
    """Sockets, rates, refusals; and the quantiles of all answers together, not the mean of quantiles."""
    fast = backend(UP, answers=((10, 98),))
    slow = backend(UP, answers=((40, 2),))
    process(figures=figures(sockets=[["/ws", "main", 3]], requests=1.5, refusals={"no_token": 2}, backends=fast))
    process(pid=2, figures=figures(sockets=[["/ws", "main", 4], ["/b", "main", 9]], errors=1, backends=slow))
    found = overview()
    totals = found["totals"]
    assert (totals["sockets"], totals["requests"], totals["refusals"], totals["errors"]) == (16, 1.5, 2, 1)
    assert totals["p50"] < 0.01 < 0.1 < totals["p99"]
    assert found["routes"] == [
        {"route": "/b", "backend": "main", "sockets": 9},
        {"route": "/ws", "backend": "main", "sockets": 7},
    ]
    assert found["refusals"] == {"no_token": 2}
    (seen,) = found["backends"]
    assert (seen["state"], seen["answers"], seen["urls"]) == ("up", 100, [{**UP, "in_use": 4, "up": 2, "seen": 2}])
    assert problems() == []


def test_the_gone_are_shown_and_count_nothing() -> None:
    """Their last figures are of no use to anybody."""
    process()
    process(pid=2, seen_at=Now() - timedelta(seconds=12), figures=figures(sockets=[["/ws", "main", 5]]))
    found = overview()
    assert found["totals"]["sockets"] == 0
    assert [(p["name"], p["state"], p["sockets"]) for p in found["processes"]] == [
        ("gw1:1", "serving", 0),
        ("gw1:2", "gone", 0),
    ]
    assert problems() == ["process gw1:2 last reported 12 s ago, and did not sign off"]


def test_a_process_that_has_not_told_figures_yet_is_there() -> None:
    """Its row may come with its first list of connections."""
    process(figures={})
    assert overview()["totals"]["sockets"] == 0


def test_without_any_process_that_is_the_problem() -> None:
    """Somebody else serves the admin, or it has just begun."""
    assert problems() == ["no process of the gateway has reported recently; its log says why"]


@pytest.mark.parametrize(
    ("row", "seen", "state", "problem"),
    [
        pytest.param({}, [backend(UP), backend(UP)], "up", "", id="up"),
        pytest.param({}, [backend(OUT)], "down", "http://a is out: /up answered 500", id="down"),
        pytest.param(
            {}, [backend(UP), backend(OUT)], "partly", "is out for 1 of 2 processes: /up answered 500", id="for some"
        ),
        pytest.param({}, [], "unknown", "", id="nobody has told"),
        pytest.param({"health_path": ""}, [backend(UP)], "unasked", "", id="without a health path"),
        pytest.param({"enabled": False}, [], "disabled", "", id="disabled"),
    ],
)
def test_a_backend_has_one_state(
    main: Backend, row: dict[str, Any], seen: list[dict[str, Any]], state: str, problem: str
) -> None:
    """As all processes together see it."""
    Backend.objects.filter(pk=main.pk).update(**row)
    process(pid=99)
    for n, each in enumerate(seen):
        process(pid=n, figures=figures(backends=each))
    found = overview()
    assert found["backends"][0]["state"] == state
    assert [problem in said for said in problems()] == ([True] if problem else [])


def test_failures_of_the_last_minute_are_told_with_the_last_cause(main: Backend) -> None:
    """A backend without a health path is known by its failures only."""
    process()
    for n, (age, code, detail) in enumerate(
        [
            (90, "backend_unreachable", "long ago"),
            (20, "backend_unreachable", "connection refused"),
            (10, "backend_timeout", "no answer within 5 s"),
            (5, "no_token", "not the backend's"),
        ]
    ):
        at = timezone.now() - timedelta(seconds=age)
        RefusalRecord.objects.create(
            at=at, process="p", kind="http", code=code, backend="main", detail=detail, pk=n + 1
        )
    found = overview()
    assert (found["backends"][0]["failures"], found["backends"][0]["failure"]) == (2, "no answer within 5 s")
    assert found["problems"] == [
        {"text": "backend main failed 2 times in the last minute: no answer within 5 s", "backend": main.pk}
    ]


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        pytest.param(
            {"config_age": 12.4, "config_error": "database unreachable"}, "12 s old: database unreachable", id="told"
        ),
        pytest.param({"config_age": 30.0}, "30 s old: database unreachable", id="it hangs"),
        pytest.param({"config_age": 2.0}, "", id="a moment"),
    ],
)
def test_an_old_configuration_is_a_problem(facts: dict[str, Any], problem: str) -> None:
    """It is in force, but nobody's changes reach it."""
    process(**facts)
    assert [problem in said for said in problems()] == ([True] if problem else [])


def test_versions_that_differ_are_mentioned() -> None:
    """In the middle of a rolling restart, or one that stopped half way."""
    process(version="1.0")
    process(pid=2, version="1.1")
    assert problems() == ["processes run different versions: 1.0, 1.1"]


def test_the_configuration_and_the_database_are_told() -> None:
    """What has been committed, and how long the database takes."""
    Revision.objects.create(config=7)
    process(revision=6)
    found = overview()
    assert found["revision"] == 7
    assert found["processes"][0]["revision"] == 6
    assert found["database"]["seconds"] > 0


def test_samples_of_all_processes_are_added_up_by_slot() -> None:
    """In order; those of processes that are gone as well, but none of more than an hour ago."""
    now = int(time.time()) // 10 * 10
    sample(now - 10, sockets=5, refusals={"no_token": 1, "no_route": 2})
    sample(now - 20)
    sample(now - 10, refusals={"no_token": 3})
    sample(now - 3700)
    assert overview()["samples"] == [
        {"at": now - 20, "sockets": 1, "requests": 2, "errors": 0, "messages": 3, "refusals": {}},
        {
            "at": now - 10,
            "sockets": 6,
            "requests": 4,
            "errors": 0,
            "messages": 6,
            "refusals": {"no_token": 4, "no_route": 2},
        },
    ]


def test_a_page_that_has_them_gets_the_newest_only() -> None:
    """Once more those that may have been incomplete."""
    now = int(time.time()) // 10 * 10
    for ago in range(10, 3600, 10):
        sample(now - ago)
    found = [each["at"] for each in overview(now - 10)["samples"]]
    assert found == [now - 30, now - 20, now - 10]


def test_it_stays_cheap(django_assert_max_num_queries: Any, main: Backend) -> None:
    """The dashboard asks every two seconds."""
    for n in range(20):
        process(pid=n, figures=figures(backends=backend(UP)))
    with django_assert_max_num_queries(6):
        overview()
    assert Process.objects.count() == 20
