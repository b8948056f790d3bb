"""relay.live.latency: quantiles of what was counted in classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.live.latency import BOUNDS, CLASSES, Latencies, quantile


def counted(*seconds: float) -> list[int]:
    found = Latencies()
    for each in seconds:
        found.observe("main", each)
    return found["main"]


def test_every_backend_is_counted_for_itself() -> None:
    """A slow one doesn't hide behind a quick one."""
    found = Latencies()
    found.observe("quick", 0.001)
    found.observe("slow", 1)
    assert quantile(found["quick"], 0.5) != quantile(found["slow"], 0.5)


def test_of_nothing_there_is_no_quantile() -> None:
    """Not zero: nobody waited for nothing."""
    assert quantile([0] * CLASSES, 0.5) is None


@pytest.mark.parametrize(
    ("seconds", "q", "expected"),
    [
        pytest.param([0.01] * 99 + [1.0], 0.5, 0.01, id="the middle of equals"),
        pytest.param([0.01] * 90 + [1.0] * 10, 0.99, 1.0, id="the slowest hundredth"),
        pytest.param([0.0], 0.5, 0.000125, id="faster than the first class ends"),
        pytest.param([3600.0], 0.99, BOUNDS[-1], id="slower than the last class begins"),
    ],
)
def test_a_quantile_is_near_the_truth(seconds: list[float], q: float, expected: float) -> None:
    """Off by less than a class."""
    assert quantile(counted(*seconds), q) == pytest.approx(expected, rel=0.19)


@given(st.lists(st.floats(0.0003, 60), min_size=1, max_size=200), st.sampled_from([0.5, 0.99]))
def test_a_quantile_lies_in_the_class_of_an_answer(seconds: list[float], q: float) -> None:
    """Never beyond the slowest, never below the fastest, by more than their classes are wide."""
    found = quantile(counted(*seconds), q)
    assert found is not None
    assert min(seconds) / 1.19 <= found <= max(seconds) * 1.19
