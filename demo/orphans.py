"""Makes sure that no process of the demo survives a `kill -9` of its parent."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it; elsewhere an orphan lives on


def end_with(parent: int) -> None:
    """Have the kernel send this process SIGTERM when its parent ends (prctl(2)); this survives an exec."""
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent has already ended
        os.kill(os.getpid(), signal.SIGTERM)
