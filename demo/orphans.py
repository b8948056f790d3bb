"""No process of the demo is left behind by a `kill -9` of the one that started it."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux has it; elsewhere an orphan lives on


def end_with(parent: int) -> None:
    """Have the kernel send this process SIGTERM as soon as its parent has ended (prctl(2)); an exec keeps it so."""
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was quicker
        os.kill(os.getpid(), signal.SIGTERM)
