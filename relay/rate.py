"""Token buckets: so many per period, evenly, with a burst on top. Pure; times come from the caller.

The rate of messages on a socket and of requests from a client are the same arithmetic.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from relay.routing.snapshot import Rate

_CLIENTS = 65536  # buckets kept at most: a stranger with many addresses must not fill the memory


class TokenBucket:
    """One bucket. It starts full, and fills at the rate's pace up to its burst."""

    __slots__ = ("_burst", "_level", "_per_second", "_then")

    def __init__(self, rate: Rate, now: float) -> None:
        self._per_second = rate.count / rate.seconds
        self._burst = float(rate.burst)
        self._level = self._burst
        self._then = now

    def take(self, now: float, count: int = 1) -> float:
        """Take tokens at a moment (any steady clock, seconds).

        Returns:
            0 if they were there; else nothing is taken, and it says how many seconds until they will be.
        """
        level = min(self._burst, self._level + (now - self._then) * self._per_second)
        self._then = now
        if level >= count:
            self._level = level - count
            return 0.0
        self._level = level
        return (count - level) / self._per_second


class ClientRates:
    """A bucket for each client address; the least recently seen is forgotten when there are too many.

    An IPv6 client holds a whole /64 as a rule (RFC 6177), so that is what is counted.
    """

    def __init__(self, rate: Rate, capacity: int = _CLIENTS) -> None:
        self.rate, self._capacity = rate, capacity
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """As `TokenBucket.take`, for the client's bucket."""
        key = _counted(client)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self.rate, now)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now)


def _counted(client: str) -> str:
    if ":" not in client:
        return client
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or address.exploded[:19])
    return client
