"""Run a load against a target, and print tables of the results."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.processes import cpu, memory, tree
from bench.targets import Target

Figures = dict[str, float]

WEBSOCKET = {
    "1 connection, 64 B": ("-mode", "echo", "-c", "1"),
    "50 connections, 64 B": ("-mode", "echo", "-c", "50"),
    "10 connections with 32 messages in flight, 64 B": ("-mode", "echo", "-c", "10", "-w", "32"),
    "4 connections, 64 KiB": ("-mode", "echo", "-c", "4", "-size", "65536"),
    "handshake and close, 20 at a time": ("-mode", "connect", "-c", "20"),
}
HTTP = {"small request, 32 connections": "/api/x", "1 MiB body, 32 connections": "/api/bytes/1048576"}


def load(build: Path, target: Target, *options: str) -> list[str]:
    """The load generator's command line for a target."""
    url = "ws" + target.url.removeprefix("http") + "/ws"
    headers = [x for name, value in target.headers.items() for x in ("-header", f"{name}: {value}")]
    return [f"{build}/bin/load", "-url", url, *headers, *options]


def websocket(build: Path, target: Target, *options: str, seconds: float) -> Figures:
    """Figures from one run of the load generator: per_s, cpu_us, p50_us, p99_us, fails."""
    pids = ",".join(map(str, tree(target.pid)))
    argv = load(build, target, "-pids", pids, "-d", f"{seconds}s", *options)
    out = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60).stdout.strip().splitlines()
    figures: Figures = json.loads(out[-1]) if out else {"done": 0, "fails": 1}
    return figures


def http(target: Target, path: str, seconds: float, connections: int = 32) -> Figures:
    """The same figures for HTTP requests, from wrk."""
    headers = [x for name, value in target.headers.items() if name != "Origin" for x in ("-H", f"{name}: {value}")]
    before = cpu(target.pid)
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", *headers, target.url + path]
    out = subprocess.run(argv, capture_output=True, text=True).stdout
    used = cpu(target.pid) - before

    def figure(pattern: str) -> str:
        found = re.search(pattern, out)
        return found[1] if found else "0"

    def micros(text: str) -> float:
        found = re.match(r"([\d.]+)(us|ms|s|m)?", text)
        return float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7, None: 1}[found[2]] if found else 0

    done = int(figure(r"(\d+) requests in"))
    broken = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", out)))
    return {
        "done": done,
        "fails": int(figure(r"Non-2xx or 3xx responses: (\d+)")) + broken,
        "per_s": float(figure(r"Requests/sec: *([\d.]+)")),
        "cpu_us": used / done * 1e6 if done else 0,
        "p50_us": micros(figure(r"50% +(\S+)")),
        "p99_us": micros(figure(r"99% +(\S+)")),
    }


@contextlib.contextmanager
def idle(build: Path, target: Target, connections: int) -> Iterator[int]:
    """Hold that many connections open; yields how many could be opened."""
    argv = load(build, target, "-mode", "idle", "-c", str(connections))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["connected"]
        finally:
            process.stdin.close()
            process.wait(60)


def idle_memory(build: Path, target: Target, connections: int) -> Figures:
    """Growth of the relay's memory for each idle connection, in KiB."""
    with idle(build, target, 20):  # what the first connections load must not count
        pass
    time.sleep(0.5)
    before = memory(target.pid)
    with idle(build, target, connections) as opened:
        time.sleep(1)
        grown = memory(target.pid) - before
    return {
        "opened": opened,
        "kib": grown / 1024 / max(opened, 1),
        "base_mib": before / 2**20,
        "fails": connections - opened,
    }


def table(title: str, unit: str, rows: dict[str, list[Figures]]) -> None:
    """Print the medians of each target's runs, and its CPU time as a multiple of the first one's."""
    print(f"\n{title}\n  {'':20}{unit + '/s':>14}{'CPU µs':>10}{'x':>8}{'p50 ms':>10}{'p99 ms':>10}{'fails':>8}")
    first = None
    for name, runs in rows.items():

        def median(key: str, runs: list[Figures] = runs) -> float:
            return statistics.median(run.get(key, 0) for run in runs)

        first = first or median("cpu_us")
        ratio = f"{median('cpu_us') / first:.2f}" if first else "-"
        times = f"{median('p50_us') / 1e3:>10.2f}{median('p99_us') / 1e3:>10.2f}"
        fails = sum(run["fails"] for run in runs)
        print(f"  {name:20}{median('per_s'):>14.0f}{median('cpu_us'):>10.0f}{ratio:>8}{times}{fails:>8.0f}", flush=True)


def costs(title: str, rows: dict[str, list[Figures]]) -> None:
    """Print medians of CPU time; the multiple of the first one's is the median of those of runs that stand together."""
    print(f"\n{title}\n  {'':20}{'runs':>14}{'CPU µs':>10}{'x':>8}")
    first = next(iter(rows.values()))
    for name, runs in rows.items():
        ratio = statistics.median(run["cpu_us"] / base["cpu_us"] for run, base in zip(runs, first, strict=True))
        cost = statistics.median(run["cpu_us"] for run in runs)
        print(f"  {name:20}{len(runs):>14}{cost:>10.0f}{ratio:>8.3f}", flush=True)


def in_turn(targets: list[Target], repeat: int, run: Callable[[Target], Figures]) -> dict[str, list[Figures]]:
    """Measure every target `repeat` times, there and back again, so that a busy machine affects all of them alike."""
    rows: dict[str, list[Figures]] = {target.name: [] for target in targets}
    for turn in range(repeat):
        for target in targets if turn % 2 == 0 else reversed(targets):
            rows[target.name].append(run(target))
    return rows
