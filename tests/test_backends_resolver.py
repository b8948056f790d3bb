"""relay.backends.resolver: the memory around the system's resolver."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

import pytest

from relay.backends import resolver as resolver_module
from relay.backends.resolver import Resolver, literal
from tests import stack
from tests.served import ROOT

V4, V6 = socket.AF_INET, socket.AF_INET6


class NameServer:
    """Stands in for the system's resolver.

    Attributes:
        answer: Addresses by family and host, or the error.
        asked: How often.
    """

    def __init__(self) -> None:
        self.answer: list[tuple[int, str]] | OSError = [(V4, "192.0.2.1")]
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def getaddrinfo(self, host, port, **options):
        self.asked += 1
        await self.gate.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port) if family == V4 else (address, port, 0, 0))
            for family, address in self.answer
        ]


@pytest.fixture
async def names(monkeypatch):
    server = NameServer()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", server.getaddrinfo)
    return server


async def found(resolver: Resolver) -> list[str]:
    return [str(address) for address in await resolver.resolve("service", 80)]


async def test_an_answer_is_remembered_for_a_while(names):
    """A handshake storm asks once."""
    resolver = Resolver()
    assert await found(resolver) == await found(resolver) == ["192.0.2.1:80"]
    assert names.asked == 1


async def test_an_old_answer_is_asked_for_again(names, monkeypatch):
    """A container that was started anew has another address."""
    monkeypatch.setattr(resolver_module, "FRESH_FOR", -1.0)
    resolver = Resolver()
    await found(resolver)
    names.answer = [(V4, "192.0.2.2")]
    assert await found(resolver) == ["192.0.2.2:80"]


@pytest.mark.parametrize(("stale_for", "expected"), [(60.0, ["192.0.2.1:80"]), (-1.0, None)], ids=["soon", "late"])
async def test_an_old_answer_is_better_than_none_for_a_while(names, monkeypatch, stale_for, expected):
    """A name server that is down must not take every backend with it, nor keep a wrong address alive."""
    monkeypatch.setattr(resolver_module, "FRESH_FOR", -1.0)
    monkeypatch.setattr(resolver_module, "STALE_FOR", stale_for)
    resolver = Resolver()
    await found(resolver)
    names.answer = socket.gaierror(socket.EAI_AGAIN, "try again")
    if expected is None:
        with pytest.raises(socket.gaierror):
            await found(resolver)
    else:
        assert await found(resolver) == expected


async def test_a_silent_name_server_is_not_waited_for(names, monkeypatch):
    """glibc waits 10 s for it, longer than `connect_timeout`; the first waits a moment, those behind it not at all."""
    monkeypatch.setattr(resolver_module, "FRESH_FOR", -1.0)
    monkeypatch.setattr(resolver_module, "PATIENCE", 0.01)
    resolver = Resolver()
    await found(resolver)
    names.gate.clear()
    names.answer = [(V4, "192.0.2.2")]
    async with asyncio.timeout(5):
        assert await found(resolver) == ["192.0.2.1:80"]
        monkeypatch.setattr(resolver_module, "PATIENCE", 0)
        assert [await found(resolver) for _ in range(3)] == [["192.0.2.1:80"]] * 3
        assert names.asked == 2  # one question at a time, however many want a newer answer
        names.gate.set()
        monkeypatch.setattr(resolver_module, "PATIENCE", 5)
        assert await found(resolver) == ["192.0.2.2:80"]
    await resolver.close()


async def test_a_silent_name_server_takes_no_backend_down(backend, monkeypatch):
    """A request on a fresh connection is served by the answer from before."""
    loop, silent, asked = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    port = int(backend.url.rpartition(":")[2])

    async def getaddrinfo(host, port, **options):
        if asked.is_set():
            silent.set()
            await asyncio.Event().wait()
        asked.set()
        return [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(resolver_module, "FRESH_FOR", -1.0)
    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    async with stack.gateway(stack.snapshot(f"http://backend.test:{port}", connect_timeout=2)) as gateway:
        for _ in range(2):
            async with gateway.websocket("/open-ws") as client:  # each dials
                await client.send("hello")
                assert await client.recv() == "hello"
    assert silent.is_set()


IN_A_NETWORK_OF_ITS_OWN = """
mount --bind resolv.conf /etc/resolv.conf && mount --bind hosts /etc/hosts && exec "$0" -c "$1"
"""
BESIDE_SILENCE = """
import asyncio, fcntl, os, socket, struct

up = struct.pack("16sH14s", b"lo", 1 | 64, b"")  # IFF_UP | IFF_RUNNING
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS
name_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
name_server.bind(("127.0.0.1", 53))  # which reads nothing

from relay.backends.resolver import Resolver
from relay.server.loop import new_event_loop

async def main():
    resolver = Resolver()
    silent = [asyncio.create_task(resolver.resolve(f"silent{n}.test", 80)) for n in range(8)]
    await asyncio.to_thread(name_server.recv, 512)  # they are on their way
    print(*await asyncio.wait_for(resolver.resolve("known.test", 80), 4), flush=True)
    os._exit(0)

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""


def test_names_that_hang_do_not_hold_up_the_others(tmp_path):
    """Under `serve`, on uvloop: libuv has a few threads for all names."""
    namespace = ["unshare", "--map-root-user", "--mount", "--net"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no namespaces")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "hosts").write_text("127.0.0.1 known.test\n")
    done = subprocess.run(
        [*namespace, "sh", "-c", IN_A_NETWORK_OF_ITS_OWN, sys.executable, BESIDE_SILENCE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.returncode) == ("127.0.0.1:80\n", 0), done.stderr


async def test_a_failure_is_not_remembered(names):
    """A name that appears is there for the next request."""
    resolver = Resolver()
    names.answer = socket.gaierror(socket.EAI_NONAME, "unknown")
    with pytest.raises(socket.gaierror):
        await found(resolver)
    names.answer = [(V4, "192.0.2.1")]
    assert await found(resolver) == ["192.0.2.1:80"]


async def test_one_question_at_a_time(names):
    """However many wait; one who gives up takes the answer from nobody."""
    names.gate.clear()
    resolver = Resolver()
    waiting = [asyncio.create_task(found(resolver)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    names.gate.set()
    answers = await asyncio.gather(*waiting[1:])
    assert answers == [["192.0.2.1:80"]] * 4
    assert names.asked == 1


async def test_families_take_turns(names):
    """RFC 8305 §4: an IPv6 network that leads nowhere costs one attempt, not all of them."""
    names.answer = [(V6, "2001:db8::1"), (V6, "2001:db8::2"), (V4, "192.0.2.1"), (V4, "192.0.2.2"), (V4, "192.0.2.3")]
    assert await found(Resolver()) == [
        "[2001:db8::1]:80",
        "192.0.2.1:80",
        "[2001:db8::2]:80",
        "192.0.2.2:80",
        "192.0.2.3:80",
    ]


async def test_the_memory_is_bounded(names, monkeypatch):
    """The name used least recently is forgotten."""
    monkeypatch.setattr(resolver_module, "REMEMBERED", 2)
    resolver = Resolver()
    for host in ("a", "b", "a", "c", "a", "b"):
        await resolver.resolve(host, 80)
    assert names.asked == 4  # a, b, c, and b again


async def test_a_name_that_can_not_be_one_is_not_found():
    """A label over 63 bytes, which IDNA refuses to encode."""
    with pytest.raises(socket.gaierror):
        await Resolver().resolve("x" * 64 + ".example", 80)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("192.0.2.1", "192.0.2.1:80", id="IPv4"),
        pytest.param("2001:db8::1", "[2001:db8::1]:80", id="IPv6"),
        pytest.param("localhost", None, id="a name"),
        pytest.param("1.2.3", None, id="short forms are the system's matter"),
        pytest.param("fe80::1%eth0", None, id="a zone too"),
    ],
)
def test_a_literal_address_needs_no_name_server(host, expected):
    """Nobody is asked, and nothing can fail."""
    address = literal(host, 80)
    assert (str(address[0]) if address else None) == expected
