"""Token buckets: an even rate plus a burst. Pure; times come from the caller.

They limit both the messages on a socket and the requests from a client.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from relay.routing.snapshot import Rate

_CLIENTS = 65536  # maximum number of buckets: a stranger with many addresses must not fill the memory


class TokenBucket:
    """One bucket. It starts full, and refills at the given rate up to its burst.

    Args:
        now: The time by any monotonic clock, in seconds; the same in every method.
    """

    __slots__ = ("_burst", "_level", "_per_second", "_then")

    def __init__(self, rate: Rate, now: float) -> None:
        self._per_second = rate.count / rate.seconds
        self._burst = float(rate.burst)
        self._level = self._burst
        self._then = now

    def available(self, now: float) -> int:
        """How many tokens can be taken now."""
        return int(self._fill(now))

    def spend(self, count: int) -> None:
        """Take `count` tokens, available or not; a negative count gives tokens back."""
        self._level -= count

    def take(self, now: float) -> float:
        """Take a token.

        Returns:
            0 if one was available; otherwise the seconds until one will be, and nothing is taken.
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
    """A bucket for each client (see `counted`); if there are too many, the least recently used is dropped."""

    def __init__(self, rate: Rate, capacity: int = _CLIENTS) -> None:
        self.rate, self._capacity = rate, capacity
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """Like `TokenBucket.take`, from the client's bucket."""
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = TokenBucket(self.rate, now)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        return bucket.take(now)

    def put_back(self, client: str) -> None:
        """Return the token just taken, as it was not used."""
        if (bucket := self._buckets.get(client)) is not None:
            bucket.spend(-1)


def counted(client: str) -> str:
    """The key of a client's bucket: for IPv6 its /64 network, as a client usually has all of one (RFC 6177).

    An IPv4-mapped IPv6 address counts as the IPv4 address; anything that is not an address counts as itself.
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
