"""Token buckets: so many per period, evenly, with a burst on top. Pure; times come from the caller.

The rate of messages on a socket and of requests from a client are the same arithmetic.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from relay.routing.snapshot import Rate

_CLIENTS = 65536  # buckets kept at most: a stranger with many addresses must not fill the memory


class TokenBucket:
    """One bucket. It starts full, and fills at the rate's pace up to its burst.

    Args:
        now: A moment of any steady clock, in seconds; likewise in every method.
    """

    __slots__ = ("_burst", "_level", "_per_second", "_then")

    def __init__(self, rate: Rate, now: float) -> None:
        self._per_second = rate.count / rate.seconds
        self._burst = float(rate.burst)
        self._level = self._burst
        self._then = now

    def available(self, now: float) -> int:
        """How many may come at this moment."""
        return int(self._fill(now))

    def spend(self, count: int) -> None:
        """So many have come, or didn't come after all (below 0)."""
        self._level -= count

    def take(self, now: float) -> float:
        """Take a token.

        Returns:
            0 if it was there; else nothing is taken, and it says how many seconds until it will be.
        """
        level = self._fill(now)
        if level >= 1:
            self._level = level - 1
            return 0.0
        return (1 - level) / self._per_second

    def _fill(self, now: float) -> float:
        self._level = level = min(self._burst, self._level + (now - self._then) * self._per_second)
        self._then = now
        return level


class ClientRates:
    """A bucket for each client, by `counted`; the least recently seen is forgotten when there are too many."""

    def __init__(self, rate: Rate, capacity: int = _CLIENTS) -> None:
        self.rate, self._capacity = rate, capacity
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """As `TokenBucket.take`, from the client's bucket."""
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket(self.rate, now)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        return bucket.take(now)

    def put_back(self, client: str) -> None:
        """The token that was just taken was not used."""
        if (bucket := self._buckets.get(client)) is not None:
            bucket.spend(-1)


def counted(client: str) -> str:
    """Whose bucket a client address takes from: an IPv6 client holds a whole /64 as a rule (RFC 6177), so that counts.

    An IPv4 address in IPv6 clothes is the IPv4 one; what is no address is itself.
    """
    if ":" not in client:
        return client
    try:
        address = ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or address.exploded[:19])
    return client
