"""Limit each worker to a quarter of a core, so that the effect of a second one shows on a machine with two cores."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

SHARE = 0.25
PERIOD = 4000  # microseconds

_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


class NoQuota(Exception):
    """No quota can be set here; the message says why."""


@contextlib.contextmanager
def held(pids: list[int]) -> Iterator[None]:
    """Limit each process to `SHARE` of a core with its own control group.

    Raises:
        NoQuota: This needs root and the ``cpu`` controller of Linux cgroups, version 1 or 2.
    """
    parent = _V1 if _V1.is_dir() else _V2
    groups = [parent / f"relay-bench-{os.getpid()}-{pid}" for pid in pids]
    try:
        try:
            for group, pid in zip(groups, pids, strict=True):
                group.mkdir()
                _limit(group)
                (group / "cgroup.procs").write_text(str(pid))
        except OSError as exc:
            raise NoQuota(f"{exc.strerror}: {exc.filename}") from exc
        yield
    finally:
        for group, pid in zip(groups, pids, strict=True):
            with contextlib.suppress(OSError):  # the group is not there, or the process is gone
                (parent / "cgroup.procs").write_text(str(pid))
            with contextlib.suppress(OSError):
                group.rmdir()


def _limit(group: Path) -> None:
    quota = round(PERIOD * SHARE)
    if group.parent == _V1:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
    else:
        (group / "cpu.max").write_text(f"{quota} {PERIOD}")
