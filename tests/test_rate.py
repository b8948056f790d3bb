"""relay/rate.py: token buckets for messages and clients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.rate import ClientRates, TokenBucket, counted
from relay.routing.snapshot import Rate


def test_a_bucket_starts_full_and_refills_evenly() -> None:
    """2/s;burst=3: three at once, then one every half second."""
    bucket = TokenBucket(Rate(2, 1.0, 3), now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(10.25) == pytest.approx(0.25)
    assert bucket.take(10.5) == 0
    assert bucket.take(10.5) == pytest.approx(0.5)


def test_a_bucket_holds_no_more_than_its_burst() -> None:
    """A long silence earns one burst, not an hour's worth."""
    bucket = TokenBucket(Rate(100, 1.0, 2), now=0)
    assert [bucket.take(3600) for _ in range(3)][:2] == [0, 0]
    assert bucket.take(3600) > 0


def test_what_is_refused_costs_nothing() -> None:
    """A client that keeps knocking is let in as soon as a patient one."""
    bucket = TokenBucket(Rate(1, 1.0, 1), now=0)
    assert bucket.take(0) == 0
    for knock in range(1, 10):
        assert bucket.take(knock / 10) > 0
    assert bucket.take(1.0) == 0


@given(
    rate=st.builds(Rate, st.integers(1, 50), st.sampled_from([1.0, 60.0]), st.integers(1, 50)),
    gaps=st.lists(st.floats(0, 5), max_size=60),
)
def test_never_more_than_burst_plus_rate(rate: Rate, gaps: list[float]) -> None:
    """Whatever the rhythm, no span of time lets through more than burst + span x rate."""
    bucket, now, passed = TokenBucket(rate, 0), 0.0, 0
    for gap in gaps:
        now += gap
        passed += bucket.take(now) == 0
    assert passed <= rate.burst + now * rate.count / rate.seconds + 1e-6


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", True, id="the same address"),
        pytest.param("192.0.2.1", "192.0.2.2", False, id="two IPv4 addresses"),
        pytest.param("2001:db8::1", "2001:db8::ffff", True, id="one IPv6 /64"),
        pytest.param("2001:db8::1", "2001:db8:0:1::1", False, id="two IPv6 /64"),
        pytest.param("::ffff:192.0.2.1", "192.0.2.1", True, id="an IPv4 address in IPv6 clothes"),
        pytest.param("fe80::1%eth0", "fe80::2%eth0", True, id="a zone does not matter"),
        pytest.param("", "", True, id="a Unix socket has no address"),
        pytest.param("no:address", "no:address", True, id="what is no address counts as itself"),
    ],
)
def test_who_shares_a_bucket(first: str, second: str, together: bool) -> None:
    """Clients are told apart by address, IPv6 by network."""
    assert (counted(first) == counted(second)) is together


def test_clients_have_buckets_of_their_own() -> None:
    """One that is over its limit takes nothing from another."""
    rates = ClientRates(Rate(1, 60.0, 1))
    assert (rates.take("a", 0), rates.take("b", 0)) == (0, 0)
    assert rates.take("a", 0) > 0


def test_a_token_that_was_put_back_is_there_again() -> None:
    """Somebody else has said no; a bucket that is full already, or forgotten, has no use for it."""
    rates = ClientRates(Rate(1, 60.0, 1))
    rates.put_back("a")
    assert rates.take("a", 0) == 0
    rates.put_back("a")
    rates.put_back("a")
    assert rates.take("a", 0) == 0
    assert rates.take("a", 0) > 0, "a bucket holds no more than its burst"


def test_what_is_available_may_be_spent_at_once() -> None:
    """Frames come in bunches: how many may pass is asked first, how many there were is known afterwards."""
    bucket = TokenBucket(Rate(2, 1.0, 3), now=0)
    assert bucket.available(0) == 3
    bucket.spend(3)
    assert bucket.available(0.9) == 1, "a token is whole, or not there"
    bucket.spend(1)
    assert bucket.take(0.9) == pytest.approx(0.1)


def test_the_number_of_buckets_is_bounded() -> None:
    """The client that was not seen for the longest time is forgotten first."""
    rates = ClientRates(Rate(1, 3600.0, 1), capacity=2)
    assert rates.take("a", 0) == 0
    assert rates.take("b", 0) == 0
    assert rates.take("a", 0) > 0
    assert rates.take("c", 0) == 0
    assert rates.take("a", 0) > 0, "a was seen lately and is still known"
    assert rates.take("b", 0) == 0, "b was forgotten"
