"""How long answers take, as counts in classes: cheap to take, and to be added up over processes and minutes. Pure.

Each class is a fifth wider than the last (four per doubling), from a quarter of a millisecond to a minute; the error of
a quantile is smaller than that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

BOUNDS = tuple(0.00025 * 2 ** (step / 4) for step in range(4 * 18 + 1))
"""Upper bounds of the classes in seconds; one more class has everything above."""

CLASSES = len(BOUNDS) + 1


class Latencies(dict[str, list[int]]):
    """Counts by backend since the process started."""

    def __missing__(self, backend: str) -> list[int]:
        self[backend] = counts = [0] * CLASSES
        return counts

    def observe(self, backend: str, seconds: float) -> None:
        """Count one answer of a backend."""
        self[backend][bisect_left(BOUNDS, seconds)] += 1


def quantile(counts: Sequence[int], q: float) -> float | None:
    """The time in seconds within which a share `q` of the answers came; None if there were none.

    Answers are assumed to be evenly distributed within a class; the last class counts as its lower bound.
    """
    wanted = q * sum(counts)
    if not wanted:
        return None
    passed = 0
    for n, count in enumerate(counts):
        if passed + count >= wanted:
            if n == len(BOUNDS):
                break
            lower = BOUNDS[n - 1] if n else 0.0
            return lower + (BOUNDS[n] - lower) * (wanted - passed) / count
        passed += count
    return BOUNDS[-1]
