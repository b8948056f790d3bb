"""relay.backends.balance: which url is next, as a table of histories."""

from __future__ import annotations

import pytest

from relay.backends import balance
from relay.backends.balance import UrlState, in_order
from relay.routing.snapshot import Url

A, B, C = (Url.parse(f"http://{name}") for name in "abc")


def order(states: list[UrlState], now: float = 100.0) -> str:
    return "".join(state.url.host for state in in_order(states, now))


def test_the_least_used_url_goes_first():
    """Contract, section 3: spread by least connections."""
    states = [UrlState(A, in_use=2), UrlState(B, in_use=0), UrlState(C, in_use=1)]
    assert order(states) == "bca"


def test_equal_urls_take_turns():
    """Requests one after the other don't all go to the first url."""
    states = [UrlState(A), UrlState(B), UrlState(C)]
    taken = ""
    for _ in range(6):
        first = in_order(states, 100.0)[0]
        first.take()
        first.release()
        taken += first.url.host
    assert taken == "abcabc"


@pytest.mark.parametrize(
    ("failures", "later", "expected"),
    [
        pytest.param(2, 0.0, "ab", id="two failures are no pattern"),
        pytest.param(3, 0.0, "ba", id="three in a row"),
        pytest.param(3, 1.9, "ba", id="three in a row, still"),
        pytest.param(3, 2.1, "ab", id="after two seconds it is asked again"),
    ],
)
def test_three_connection_failures_in_a_row_put_a_url_last(failures, later, expected):
    """Contract, section 3: last for 2 s, not out."""
    states = [UrlState(A), UrlState(B, in_use=1)]
    for _ in range(failures):
        states[0].not_connected(100.0)
    assert order(states, 100.0 + later) == expected


def test_one_more_failure_after_the_pause_is_enough():
    """It is still the same row of failures."""
    states = [UrlState(A), UrlState(B, in_use=1)]
    for moment in (100.0, 100.0, 100.0, 103.0):
        states[0].not_connected(moment)
    assert order(states, 103.5) == "ba"


def test_a_connection_ends_a_row_of_failures():
    """Two failures, a success and two failures are no three in a row."""
    states = [UrlState(A), UrlState(B, in_use=1)]
    for step in (states[0].not_connected,) * 2:
        step(100.0)
    states[0].connected()
    for step in (states[0].not_connected,) * 2:
        step(100.0)
    assert order(states) == "ab"


def test_a_url_is_out_after_two_failed_polls_and_back_after_one_good():
    """Contract, section 3; only the changes are news."""
    state = UrlState(A)
    assert [state.probe_failed("x"), state.out] == [False, False]
    assert [state.probe_failed("y"), state.out, state.cause] == [True, True, "y"]
    assert [state.probe_failed("z"), state.out, state.cause] == [False, True, "z"]
    assert [state.probe_succeeded(100.0), state.out, state.cause] == [True, False, ""]
    assert [state.probe_succeeded(100.0), state.probe_failed("w"), state.out] == [False, False, False]


def test_a_good_poll_between_two_failed_ones_keeps_a_url_in():
    """Two failures in a row, not two in all."""
    state = UrlState(A)
    for probe in (state.probe_failed("x"), state.probe_succeeded(100.0), state.probe_failed("x")):
        assert probe is False
    assert not state.out


def test_a_url_that_is_out_is_no_candidate():
    """Not even the last one."""
    states = [UrlState(A), UrlState(B)]
    for _ in range(balance.PROBES_UNTIL_OUT):
        states[0].probe_failed("down")
    assert order(states) == "b"
    for _ in range(balance.PROBES_UNTIL_OUT):
        states[1].probe_failed("down")
    assert order(states) == ""


def test_a_url_that_came_back_gets_its_share_little_by_little():
    """Else all that waited would fall on it at once: it has no connections yet, so it would be first for each."""
    back, busy = UrlState(A, in_use=1), UrlState(B, in_use=8)
    back.probe_failed("down")
    back.probe_failed("down")
    back.probe_succeeded(100.0)
    assert order([back, busy], 100.1) == "ba"
    assert order([back, busy], 100.0 + balance.SLOW_START) == "ab"
