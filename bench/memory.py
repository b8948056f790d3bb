"""The gateway's memory under loads that typically exhaust a relay's."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bench import measure
from bench.processes import memory
from bench.targets import Lab, Target

MIB = 2**20
PUSH = 512 * MIB
BODY = 1024 * MIB
PIECE = 1 * MIB


def report(what: str, figure: str, limit: str, kept: bool) -> None:
    print(f"  {what:58}{figure:>16}   {'within' if kept else 'OVER'} {limit}", flush=True)


def run(lab: Lab) -> None:
    """Print a line for each figure, and whether it is within its limit."""
    print("\nMemory of the gateway")
    gateway = lab.gateway()
    kib = measure.idle_memory(lab.build, gateway, 5000)
    report(
        f"{kib['opened']:.0f} idle sockets",
        f"{kib['kib']:.1f} KiB each",
        "40 KiB",
        kib["kib"] <= 40 and not kib["fails"],
    )
    left = rounds(lab.build, gateway)
    report("left after 3 rounds of 2,000 connects and closes", f"{left / MIB:.1f} MiB", "3 MiB", left <= 3 * MIB)
    asyncio.run(_pushes(lab))
    asyncio.run(_bodies(lab))


def rounds(build: Path, target: Target) -> int:
    """Bytes by which memory after the third round of 2,000 sockets exceeds that after the second."""
    after = []
    for _ in range(3):
        with measure.idle(build, target, 2000):
            pass
        time.sleep(2)
        after.append(memory(target.pid))
    return after[2] - after[1]


async def _pushes(lab: Lab) -> None:
    """512 MiB for a reader that stops and then reads on: the memory growth, and whether all of it arrives."""

    async def push(socket_: ServerConnection) -> None:
        piece = os.urandom(PIECE)
        digest = hashlib.sha256()
        for _ in range(PUSH // PIECE):
            await socket_.send(piece)
            digest.update(piece)
        await socket_.send(digest.hexdigest())

    async with serve(push, "127.0.0.1", 0, max_size=None, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await asyncio.to_thread(lab.gateway, "pushed", backend=f"127.0.0.1:{port}")
        url = "ws" + gateway.url.removeprefix("http") + "/ws"
        before = memory(gateway.pid)
        options = {"additional_headers": gateway.headers, "origin": None, "proxy": None}
        async with connect(url, max_size=None, max_queue=2, compression=None, **options) as client:  # type: ignore[arg-type]
            digest = hashlib.sha256(await client.recv(decode=False))
            await asyncio.sleep(5)
            grown = memory(gateway.pid) - before
            sent = ""
            async for message in client:
                if isinstance(message, str):
                    sent = message
                    break
                digest.update(message)
        report("512 MiB pushed at a reader that stopped for 5 s", f"{grown / MIB:.1f} MiB", "32 MiB", grown <= 32 * MIB)
        whole = digest.hexdigest() == sent
        report("and all of it arrived", "yes" if whole else "NO", "its SHA-256", whole)


async def _bodies(lab: Lab) -> None:
    """1 GiB up to a slow backend, and 1 GiB down to a client that stops reading."""

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            await asyncio.sleep(3)
            left = BODY
            while left and (data := await reader.read(MIB)):
                left -= len(data)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok" if not left else b"")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % BODY)
            await _pour(writer, BODY)
        writer.close()

    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    gateway = await asyncio.to_thread(
        lab.gateway, "bodies", backend=f"127.0.0.1:{port}", backend_options="max_body_size = 0"
    )
    fields = f"Host: 127.0.0.1\r\nCookie: {gateway.headers['Cookie']}\r\n"
    unlimited = f"POST /api/x HTTP/1.1\r\n{fields}Content-Length: {BODY}\r\n\r\n"

    async def up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(unlimited.encode())
        await _pour(writer, BODY)
        return (await reader.readline()).startswith(b"HTTP/1.1 200")

    async def down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(f"GET /api/x HTTP/1.1\r\n{fields}\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3)
        left = BODY
        while left and (data := await reader.read(MIB)):
            left -= len(data)
        return not left

    await _peak(gateway, "1 GiB up to a backend that waits for 3 s", up)
    await _peak(gateway, "1 GiB down to a client that waits for 3 s", down)
    server.close()


async def _peak(
    gateway: Target, what: str, transfer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
) -> None:
    """Watch the memory while a body is transferred."""
    before = most = memory(gateway.pid)
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    task = asyncio.ensure_future(transfer(reader, writer))
    while not task.done():
        most = max(most, await asyncio.to_thread(memory, gateway.pid))
        await asyncio.wait([task], timeout=0.2)
    writer.close()
    kept = task.result() and most - before <= 48 * MIB
    report(what, f"{(most - before) / MIB:.1f} MiB", "48 MiB, complete", kept)


async def _pour(writer: asyncio.StreamWriter, size: int) -> None:
    piece = bytes(PIECE)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(size // PIECE):
        writer.write(piece)
        await writer.drain()
