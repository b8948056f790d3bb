"""Which request is this, and from where: `relay.entry.arrive`."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.entry import Arrival, arrive

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")))


def scope(*headers: tuple[str, str], peer: str = "10.0.0.1", **rest: Any) -> dict[str, Any]:
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return {
        "type": "http",
        "scheme": "http",
        "client": [peer, 50_000],
        "server": ["10.0.0.9", 8000],
        "headers": fields,
        **rest,
    }


def arrival(*headers: tuple[str, str], peer: str = "10.0.0.1", **rest: Any) -> Arrival:
    return arrive(scope(*headers, peer=peer, **rest), PROXIES)


def xff(value: str) -> tuple[str, str]:
    return ("X-Forwarded-For", value)


def forwarded(value: str) -> tuple[str, str]:
    return ("Forwarded", value)


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        pytest.param([], "10.0.0.1", id="nothing said: the proxy itself"),
        pytest.param([xff("203.0.113.7")], "203.0.113.7", id="one address"),
        pytest.param([xff("1.1.1.1, 203.0.113.7")], "203.0.113.7", id="what the client wrote in front does not count"),
        pytest.param([xff("203.0.113.7, 10.0.0.2, 10.0.0.3")], "203.0.113.7", id="through several trusted proxies"),
        pytest.param([xff("1.1.1.1"), xff("203.0.113.7")], "203.0.113.7", id="on several lines"),
        pytest.param([xff("203.0.113.7"), xff("10.0.0.2")], "203.0.113.7", id="on several lines, a proxy last"),
        pytest.param([xff("10.0.0.2, 10.0.0.3")], "10.0.0.2", id="all trusted: the left-most"),
        pytest.param([xff("203.0.113.7:4711")], "203.0.113.7", id="with a port"),
        pytest.param([xff("2001:db8::7")], "2001:db8::7", id="IPv6"),
        pytest.param([xff("[2001:db8::7]")], "2001:db8::7", id="IPv6 in brackets"),
        pytest.param([xff("[2001:db8::7]:4711")], "2001:db8::7", id="IPv6 with a port"),
        pytest.param([xff("2001:DB8:0:0::7")], "2001:db8::7", id="IPv6 in normal form"),
        pytest.param([xff("203.0.113.7, fd00::2")], "203.0.113.7", id="through a trusted IPv6 proxy"),
        pytest.param([xff("203.0.113.7, ::ffff:10.0.0.2")], "203.0.113.7", id="through a trusted proxy, IPv4-mapped"),
        pytest.param([xff("::ffff:203.0.113.7")], "203.0.113.7", id="an IPv4-mapped client is its IPv4 address"),
        pytest.param([xff("fe80::1%eth0")], "fe80::1", id="without the zone"),
        pytest.param([xff("fe80::1%<script>")], "fe80::1", id="without what stands for a zone"),
        pytest.param([xff("unknown")], "10.0.0.1", id="no address: the proxy"),
        pytest.param([xff("203.0.113.7, unknown")], "10.0.0.1", id="nobody vouches for what is left of no address"),
        pytest.param([xff("203.0.113.7, unknown, 10.0.0.2")], "10.0.0.2", id="back to the last known proxy"),
        pytest.param([xff("203.0.113.7,")], "10.0.0.1", id="an empty element is no address"),
        pytest.param([xff(" 203.0.113.7 ")], "203.0.113.7", id="white space around it"),
        pytest.param([xff("203.0.113.7 evil")], "10.0.0.1", id="more than an address"),
        pytest.param([xff("203.0.113.07")], "10.0.0.1", id="a leading zero is no address"),
        pytest.param([xff("0x7f.1")], "10.0.0.1", id="no other spelling of an address"),
        pytest.param([xff("127.0.0.1")], "127.0.0.1", id="the proxy says loopback"),
        pytest.param([forwarded("for=203.0.113.7")], "203.0.113.7", id="Forwarded"),
        pytest.param([forwarded('For="203.0.113.7:4711";proto=https')], "203.0.113.7", id="Forwarded with a port"),
        pytest.param([forwarded('for="[2001:db8::7]:4711"')], "2001:db8::7", id="Forwarded with IPv6"),
        pytest.param([forwarded("for=1.1.1.1, for=203.0.113.7")], "203.0.113.7", id="Forwarded: the right-most"),
        pytest.param(
            [forwarded("for=203.0.113.7, for=10.0.0.2")], "203.0.113.7", id="Forwarded through a trusted proxy"
        ),
        pytest.param([forwarded("by=1.1.1.1;for=203.0.113.7")], "203.0.113.7", id="Forwarded: another parameter first"),
        pytest.param([forwarded("x-for=1.1.1.1")], "10.0.0.1", id="Forwarded: a parameter that ends like it"),
        pytest.param([forwarded("for=203.0.113.7, proto=https")], "10.0.0.1", id="Forwarded: a hop that hides itself"),
        pytest.param([forwarded("for=_hidden")], "10.0.0.1", id="Forwarded: an obfuscated name"),
        pytest.param([forwarded("for=unknown")], "10.0.0.1", id="Forwarded: unknown"),
        pytest.param(
            [forwarded('for="'), forwarded('for="[2001:db8::7]"')], "2001:db8::7", id="an open quote hides nothing"
        ),
        pytest.param(
            [forwarded("for=1.1.1.1"), xff("203.0.113.7")], "203.0.113.7", id="X-Forwarded-For goes before it"
        ),
        pytest.param(
            [forwarded("for=1.1.1.1"), ("X-Forwarded-Proto", "https")], "10.0.0.1", id="never a mixture of the two"
        ),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_trusted_proxy(
    headers: list[tuple[str, str]], client: str
) -> None:
    """Contract, section 2: what stands further left was written by the client, and may be anything."""
    found = arrival(*headers)
    assert (found.client, found.peer, found.peer_trusted) == (client, "10.0.0.1", True)


FORGED = [
    xff("1.1.1.1"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.test"),
    forwarded("for=1.1.1.1;proto=https;host=evil.test"),
    ("X-Request-ID", "mine"),
    ("Host", "gw.example.com"),
]


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param("203.0.113.7", id="another network"),
        pytest.param("11.0.0.1", id="the network next to it"),
        pytest.param("2001:db8::1", id="IPv6"),
        pytest.param("::ffff:203.0.113.7", id="IPv4-mapped"),
        pytest.param("testclient", id="no address at all"),
    ],
)
def test_a_strangers_forwarding_fields_count_for_nothing(peer: str) -> None:
    """Contract, section 2: only trusted proxies are believed."""
    found = arrival(*FORGED, peer=peer)
    assert not found.peer_trusted
    assert found.client == found.peer == peer.removeprefix("::ffff:")
    assert (found.scheme, found.host, found.port) == ("http", "gw.example.com", 80)
    assert found.request_id != "mine"


def test_without_trusted_proxies_nobody_is_believed() -> None:
    """The default: not even loopback."""
    for peer in ("127.0.0.1", "10.0.0.1", "::1"):
        found = arrive(scope(*FORGED, peer=peer), ())
        assert (found.client, found.peer_trusted, found.scheme) == (peer, False, "http")


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param("10.255.0.1", id="in the network"),
        pytest.param("127.0.0.1", id="a single address"),
        pytest.param("fd12::1", id="IPv6"),
        pytest.param("::ffff:10.0.0.1", id="IPv4-mapped, as a dual-stack socket shows it"),
    ],
)
def test_a_trusted_proxy_is_believed(peer: str) -> None:
    """All of it: address, scheme, host and request id."""
    found = arrival(*FORGED, peer=peer)
    assert found.peer_trusted
    assert (found.client, found.scheme, found.host, found.port, found.request_id) == (
        "1.1.1.1",
        "https",
        "evil.test",
        443,
        "mine",
    )


@pytest.mark.parametrize(
    ("server", "client", "trusted", "expected"),
    [
        pytest.param(["/run/gw.sock", None], None, PROXIES, "203.0.113.7", id="a Unix socket: who may open it is ours"),
        pytest.param(None, None, PROXIES, "203.0.113.7", id="a Unix socket under Daphne"),
        pytest.param(["/run/gw.sock", None], ["", 0], PROXIES, "203.0.113.7", id="a Unix socket with an empty address"),
        pytest.param(["/run/gw.sock", None], None, (), "", id="a Unix socket, but nobody is trusted"),
        pytest.param(
            ["10.0.0.9", 8000], None, PROXIES, "", id="TCP, but the peer is gone: no stranger becomes trusted"
        ),
    ],
)
def test_a_peer_without_an_address(server: Any, client: Any, trusted: Any, expected: str) -> None:
    """A client that resets its connection at once has no address any more; it must not pass for a Unix socket."""
    found = arrive(scope(xff("203.0.113.7"), client=client, server=server), trusted)
    assert (found.client, found.peer) == (expected, "")
    assert found.peer_trusted is bool(expected)


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        pytest.param([], "http", id="the connection's"),
        pytest.param([("X-Forwarded-Proto", "https")], "https", id="X-Forwarded-Proto"),
        pytest.param([("X-Forwarded-Proto", "HTTPS")], "https", id="in capitals"),
        pytest.param([("X-Forwarded-Proto", "wss")], "https", id="wss is https"),
        pytest.param([("X-Forwarded-Proto", "ws")], "http", id="ws is http"),
        pytest.param([("X-Forwarded-Proto", "http, https")], "https", id="the right-most"),
        pytest.param([("X-Forwarded-Proto", "gopher")], "http", id="junk"),
        pytest.param([("X-Forwarded-Proto", "https evil")], "http", id="more than a scheme"),
        pytest.param([forwarded("for=1.1.1.1;proto=https")], "https", id="Forwarded"),
        pytest.param([forwarded('proto="https"')], "https", id="Forwarded, quoted"),
        pytest.param([forwarded("proto=https, for=1.1.1.1")], "http", id="Forwarded: not of another element"),
        pytest.param([forwarded("proto=https"), xff("1.1.1.1")], "http", id="Forwarded beside X-Forwarded-For"),
    ],
)
def test_the_scheme_is_the_clients(headers: list[tuple[str, str]], scheme: str) -> None:
    """What a trusted proxy says it was; `http` or `https`, for WebSockets too."""
    assert arrival(*headers).scheme == scheme


@pytest.mark.parametrize(
    ("connection", "scheme"), [("http", "http"), ("https", "https"), ("ws", "http"), ("wss", "https"), (None, "http")]
)
def test_the_scheme_of_a_direct_connection(connection: str | None, scheme: str) -> None:
    """Daphne leaves the scope of a WebSocket without a scheme."""
    assert arrival(scheme=connection).scheme == scheme


@pytest.mark.parametrize(
    ("headers", "host", "port"),
    [
        pytest.param([("Host", "gw.example.com")], "gw.example.com", 80, id="the scheme's port"),
        pytest.param([("Host", "gw.example.com:8000")], "gw.example.com:8000", 8000, id="its own port"),
        pytest.param([("Host", "[2001:db8::1]")], "[2001:db8::1]", 80, id="IPv6"),
        pytest.param([("Host", "[2001:db8::1]:8000")], "[2001:db8::1]:8000", 8000, id="IPv6 with a port"),
        pytest.param([], "", 80, id="none (HTTP/1.0)"),
        pytest.param([("Host", "gw:0")], "gw:0", 80, id="port 0 is none"),
        pytest.param([("Host", "gw:70000")], "gw:70000", 80, id="a port too high is none"),
        pytest.param([("Host", "gw:²")], "gw:²", 80, id="a superscript is no digit"),
        pytest.param([("Host", "gw:")], "gw:", 80, id="an empty port"),
        pytest.param([("Host", "gw:9" * 20_000)], "gw:9" * 20_000, 9, id="a long one"),
        pytest.param([("Host", "a"), ("Host", "b")], "a, b", 80, id="two: ALLOWED_HOSTS will not have that"),
        pytest.param([("X-Forwarded-Host", "public.test"), ("Host", "gw")], "public.test", 80, id="X-Forwarded-Host"),
        pytest.param(
            [("X-Forwarded-Host", "evil, public.test:81"), ("Host", "gw")], "public.test:81", 81, id="right-most"
        ),
        pytest.param([("X-Forwarded-Host", "[::1]:81"), ("Host", "gw")], "[::1]:81", 81, id="X-Forwarded-Host, IPv6"),
        pytest.param([forwarded('host="public.test:81"'), ("Host", "gw")], "public.test:81", 81, id="Forwarded"),
        *(
            pytest.param([("X-Forwarded-Host", junk), ("Host", "gw")], "gw", 80, id=f"junk: {why}")
            for why, junk in {
                "a user name": "me@evil.test",
                "a path": "evil.test/x",
                "a blank": "evil test",
                "a line break": "evil.test\r\nX-User-ID: 1",
                "a colon too many": "evil.test:80:90",
                "a port that is none": "evil.test:http",
                "a scheme": "https://evil.test",
                "a bracket": "[::1",
                "empty": "",
                "an empty element": "public.test,",
            }.items()
        ),
    ],
)
def test_the_host_is_the_one_that_the_client_knows(headers: list[tuple[str, str]], host: str, port: int) -> None:
    """Contract, section 5: `X-Forwarded-Host` and `-Port` of the client's Host, else the scheme's port."""
    found = arrival(*headers)
    assert (found.host, found.port) == (host, port)


@pytest.mark.parametrize(
    ("given_id", "taken"),
    [
        pytest.param("4bf92f35-77b3-4da6", True, id="a UUID's beginning"),
        pytest.param("Root=1-67891233-abcdef012345678912345678", True, id="Amazon's"),
        pytest.param("a" * 128, True, id="128 characters"),
        pytest.param("a" * 129, False, id="129 characters"),
        pytest.param("", False, id="empty"),
        pytest.param("two words", False, id="a blank"),
        pytest.param("id\r\nX-User-ID: 1", False, id="a line break"),
        pytest.param('id"', False, id="a quote"),
        pytest.param("<script>", False, id="markup"),
        pytest.param("é", False, id="non-ASCII"),
    ],
)
def test_a_request_id_is_taken_from_a_trusted_proxy(given_id: str, taken: bool) -> None:
    """It stands in headers, logs and pages: only plain signs, and not many."""
    found = arrival(("X-Request-ID", given_id)).request_id
    assert (found == given_id) is taken
    assert found
    assert found.isascii()


def test_request_ids_differ() -> None:
    """Whoever has none gets a fresh one; two that were sent are none."""
    ids = {arrival().request_id for _ in range(50)}
    assert len(ids) == 50
    assert arrival(("X-Request-ID", "a"), ("X-Request-ID", "b")).request_id not in ("a", "b", "a, b")


def test_a_long_chain_costs_little() -> None:
    """A client may write thousands of trusted addresses in front; only the right end of the list is looked at."""
    spoofed = ", ".join(["203.0.113.7"] + ["10.0.0.2"] * 5000)
    assert arrival(xff(spoofed)).client == "10.0.0.2"
    assert arrival(forwarded(", ".join(["for=203.0.113.7"] + ["for=10.0.0.2"] * 5000))).client == "10.0.0.2"
    assert arrival(*[xff("")] * 5000, xff("203.0.113.7")).client == "203.0.113.7"


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.sampled_from([f[0] for f in FORGED]))
def test_any_text_is_read_without_an_error(text: str, name: str) -> None:
    """A field comes from a stranger, also through a trusted proxy."""
    found = arrival((name, text))
    found.host.encode("latin-1")
    assert 0 < found.port < 65536
    assert found.scheme in ("http", "https")
