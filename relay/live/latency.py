"""How long answers take, as counts in classes: cheap to take, and to be added up over processes and minutes. Pure.

The classes grow by a fifth (four to a doubling), from a quarter of a millisecond to a minute; a quantile read from them
is off by less than that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

BOUNDS = tuple(0.00025 * 2 ** (step / 4) for step in range(4 * 18 + 1))
"""Upper ends of the classes in seconds; what takes longer is in one more class."""

CLASSES = len(BOUNDS) + 1


class Latencies(dict[str, list[int]]):
    """Counts by backend since the process began."""

    def __missing__(self, backend: str) -> list[int]:
        self[backend] = counts = [0] * CLASSES
        return counts

    def observe(self, backend: str, seconds: float) -> None:
        """Count one answer of a backend."""
        self[backend][bisect_left(BOUNDS, seconds)] += 1


def quantile(counts: Sequence[int], q: float) -> float | None:
    """The time in seconds that a share `q` of the answers took at most; None if there was none.

    Within a class the answers are taken to lie evenly; of the last one only its lower end is known.
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
