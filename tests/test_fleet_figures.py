"""relay.fleet.figures: rates and windows, out of counts that only grow."""

from __future__ import annotations

import pytest

from relay.fleet.figures import Observer, Slot
from tests.fleet_helpers import OUT, UP, health, latencies, totals


def test_the_first_look_knows_no_rate() -> None:
    """There is nothing to compare with yet."""
    figures = Observer().look(totals(requests=1000, messages=9), {}, now=5.0)
    assert (figures["requests"], figures["messages"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("looks", "rate"),
    [
        pytest.param([(0, 0), (2, 10)], 5.0, id="since the look before"),
        pytest.param([(0, 0), (2, 10), (4, 10), (6, 10), (8, 10), (10, 10)], 1.0, id="over ten seconds"),
        pytest.param([(0, 0), (2, 10), (13, 10), (15, 10)], 0.0, id="what is longer ago is forgotten"),
        pytest.param([(0, 0), (300, 10)], 0.0, id="a loop that was blocked for long begins anew"),
    ],
)
def test_a_rate_is_per_second_of_the_last_ten(looks: list[tuple[float, int]], rate: float) -> None:
    """Calm enough to read, quick enough to see."""
    observer = Observer()
    for now, requests in looks:
        figures = observer.look(totals(requests=requests), {}, now)
    assert figures["requests"] == rate


def test_refusals_errors_and_latencies_are_of_the_last_minute() -> None:
    """What was before is taken off; what has not risen is left out."""
    observer = Observer()
    backends = {"main": health(UP)}
    before = totals(refusals={"no_token": 5, "no_route": 1}, errors=2, latencies=latencies(main=3))
    observer.look(before, backends, 0.0)
    now = totals(refusals={"no_token": 7, "no_route": 1, "bad_path": 1}, errors=3, latencies=latencies(main=4))
    figures = observer.look(now, backends, 60.0)
    assert (figures["refusals"], figures["errors"]) == ({"bad_path": 1, "no_token": 2}, 1)
    assert figures["backends"]["main"]["answers"] == [(10, 1)]
    later = observer.look(now, backends, 121.0)
    assert (later["refusals"], later["errors"], later["backends"]["main"]["answers"]) == ({}, 0, [])


def test_a_backend_is_shown_url_by_url() -> None:
    """Which one is out, and why; one that has answered nothing yet too."""
    figures = Observer().look(totals(sockets={("/ws", "main"): 3}), {"main": health(UP, OUT)}, 0.0)
    assert figures["sockets"] == [("/ws", "main", 3)]
    assert figures["backends"]["main"] == {
        "urls": [
            {"url": UP.url, "up": True, "in_use": 3, "cause": ""},
            {"url": OUT.url, "up": False, "in_use": 0, "cause": OUT.cause},
        ],
        "answers": [],
    }


def test_a_slot_is_told_once_when_it_has_ended() -> None:
    """Ten seconds each, by the clock on the wall, so that those of all processes can be added up."""
    observer = Observer()
    assert observer.slot(totals(requests=1), 100.5) is None
    assert observer.slot(totals(requests=5), 109.9) is None
    done = totals(requests=7, errors=1, messages=3, refusals={"no_token": 2}, sockets={("/ws", "main"): 4})
    assert observer.slot(done, 110.1) == Slot(100, 4, 6, 1, 3, {"no_token": 2})
    assert observer.slot(done, 112.0) is None
    assert observer.slot(done, 120.0) == Slot(110, 4, 0, 0, 0, {})


def test_a_clock_that_steps_back_a_little_repeats_no_slot() -> None:
    """As one that is kept in time does; nothing of the counts is lost."""
    observer = Observer()
    observer.slot(totals(), 100.0)
    assert observer.slot(totals(requests=1), 99.0) is None
    assert observer.slot(totals(requests=2), 110.0) == Slot(100, 0, 2, 0, 0, {})


def test_a_clock_that_is_put_back_goes_on_from_there() -> None:
    """By an hour, say: the curves must not stand still until it has caught up."""
    observer = Observer()
    observer.slot(totals(requests=1), 4000.0)
    assert observer.slot(totals(requests=3), 400.0) is None
    assert observer.slot(totals(requests=4), 410.0) == Slot(400, 0, 3, 0, 0, {})
    assert observer.slot(totals(requests=4), 420.0) == Slot(410, 0, 0, 0, 0, {})
