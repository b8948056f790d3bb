"""``python -m bench [all|ws|http|memory|recording|scale]``: see README.md."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import measure, memory, quota
from bench.measure import Figures
from bench.processes import workers
from bench.switching import WAYS
from bench.targets import PEERS, ROOT, Lab, Target, build_tools, which

Results = dict[str, dict[str, list[Figures]]]
SMALL = next(iter(measure.HTTP.values()))


def targets(lab: Lab, names: list[str], kind: str) -> list[Target]:
    """The peers that can be started, and finally the gateway."""
    found = []
    for name in names:
        if not getattr(PEERS[name], kind):
            continue
        if which(PEERS[name].wants):
            found.append(lab.peer(name))
        else:
            print(f"  {name} is left out: there is no {PEERS[name].wants}")
    return [*found, lab.gateway()]


def websockets(lab: Lab, args: argparse.Namespace) -> Results:
    running = targets(lab, args.peers, "websocket")
    results: Results = {}
    # Memory first: memory freed after a busy phase would be reused, and hide the growth.
    print(f"\nMemory of {args.idle} idle connections\n  {'':20}{'KiB each':>14}{'base MiB':>10}{'fails':>8}")
    results["idle"] = {}
    for target in running:
        run = measure.idle_memory(lab.build, target, args.idle)
        results["idle"][target.name] = [run]
        print(f"  {target.name:20}{run['kib']:>14.1f}{run['base_mib']:>10.0f}{run['fails']:>8.0f}", flush=True)
    for title, options in measure.WEBSOCKET.items():
        rows = measure.in_turn(running, args.repeat, partial(_websocket, lab, options, args.seconds))
        measure.table(title, "handshakes" if "connect" in options else "messages", rows)
        results[title] = rows
    return results


def http(lab: Lab, args: argparse.Namespace) -> Results:
    running = targets(lab, args.peers, "http")
    results: Results = {}
    for title, path in measure.HTTP.items():
        able = [t for t in running if t.name not in PEERS or PEERS[t.name].relays or "bytes" not in path]
        results[title] = measure.in_turn(able, args.repeat, lambda t, p=path: measure.http(t, p, args.seconds))  # type: ignore[misc]
        measure.table(title, "requests", results[title])
    return results


def scale(lab: Lab, args: argparse.Namespace) -> Results:
    """One worker against two, at full speed and at a quarter of a core each."""
    messages, handshakes = "10 connections with 32 messages in flight, 64 B", "handshake and close, 20 at a time"
    loads: dict[str, tuple[str, Callable[[Target], Figures]]] = {
        "small requests": ("requests", lambda t: measure.http(t, SMALL, args.seconds)),
        messages: ("messages", partial(_websocket, lab, measure.WEBSOCKET[messages], args.seconds)),
        handshakes: ("handshakes", partial(_websocket, lab, measure.WEBSOCKET[handshakes], args.seconds)),
    }
    one, two = lab.gateway("1 worker"), lab.gateway("2 workers", "--workers", "2")
    results: Results = {}

    def compare(key: str, condition: str = "") -> None:
        for title, (unit, run) in loads.items():
            results[f"{key}: {title}"] = rows = measure.in_turn([one, two], args.repeat, run)
            measure.table(title + condition, unit, rows)

    compare("scale")
    try:
        with quota.held(workers(one.pid) + workers(two.pid)):
            compare("quarter", f", {quota.SHARE:g} of a core for each worker")
    except quota.NoQuota as exc:
        print(f"\n  workers can't be limited to a part of a core here ({exc}): that comparison is left out")
    return results


def recording(args: argparse.Namespace) -> Results:
    """What metrics and the log cost a small request, in gateways that switch between the ways of recording."""
    rows: dict[str, list[Figures]] = {way: [] for way in WAYS}
    for _ in range(args.repeat):
        samples = args.build / "samples"
        samples.unlink(missing_ok=True)
        with Lab(args.build) as lab:
            target = lab.gateway(manage="bench/switching.py", BENCH_SAMPLES=str(samples))
            measure.http(target, SMALL, 4 * args.seconds)
        costs = [float(line) for line in samples.read_text().splitlines()]
        rounds = len(costs) // len(WAYS)
        for i, way in enumerate(WAYS):
            rows[way] += [{"cpu_us": costs[len(WAYS) * n + i]} for n in range(rounds // 4, rounds)]  # warm by then
    measure.costs("small requests, and what recording them costs", rows)
    return {"recording": rows}


def _websocket(lab: Lab, options: tuple[str, ...], seconds: float, target: Target) -> Figures:
    return measure.websocket(lab.build, target, *options, seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("verb", nargs="?", default="all", choices=["all", "ws", "http", "memory", "recording", "scale"])
    parser.add_argument(
        "--build", type=Path, default=ROOT / ".bench", help="where it builds and runs (default: .bench)"
    )
    parser.add_argument("--peers", default="all", help="comma-separated, 'all' or 'none'; known: " + ", ".join(PEERS))
    parser.add_argument("--repeat", type=int, default=3, help="runs of each measurement, in turn; medians are printed")
    parser.add_argument("--seconds", type=float, default=3, help="duration of each measurement")
    parser.add_argument("--idle", type=int, default=1000, help="number of idle connections for the memory figure")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    args = parser.parse_args()
    args.peers = [] if args.peers == "none" else list(PEERS) if args.peers == "all" else args.peers.split(",")
    if unknown := set(args.peers) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    build_tools(args.build)
    results: Results = {}
    for verb, part in {"ws": websockets, "http": http, "scale": scale}.items():
        if args.verb in ("all", verb):
            with Lab(args.build) as lab:
                results |= part(lab, args)
    if args.verb in ("all", "recording"):
        results |= recording(args)
    if args.verb in ("all", "memory"):
        with Lab(args.build) as lab:
            memory.run(lab)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
