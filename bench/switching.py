"""manage.py for a gateway that goes on from one way of recording to the next after every `SLICE` requests.

It appends what each cost to the file named by ``BENCH_SAMPLES``, in microseconds of CPU time per request, in the order
of `WAYS`. In one process, the ways share the place of everything in memory and the state of the machine; between two
processes, these differ by more than what is to be measured.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from relay.http.journal import Journal
from relay.http.request import RelayRequest
from relay.live import log

SLICE = 200

Record = Callable[[Journal, RelayRequest, int], None]

_record: Record = Journal.answered


def _ignore(journal: Journal, request: RelayRequest, status: int) -> None:
    pass


WAYS: dict[str, tuple[Record, str]] = {  # and the level of the log
    "not recorded": (_ignore, "INFO"),
    "metrics": (_record, "ERROR"),
    "metrics and log": (_record, "INFO"),
}


class Switch:
    """Stands in for `Journal.answered`."""

    def __init__(self, samples: Path) -> None:
        self._samples = samples
        self._ways = list(WAYS)
        self._begin()

    def _begin(self) -> None:
        self._record, level = WAYS[self._ways[0]]
        log.logger.setLevel(level)
        self._requests, self._began = 0, time.process_time()

    def answered(self, journal: Journal, request: RelayRequest, status: int) -> None:
        self._record(journal, request, status)
        self._requests += 1
        if self._requests == SLICE:
            self._end(journal)

    def _end(self, journal: Journal) -> None:
        journal.flush()
        for handler in log.handlers():
            handler.flush()
        cost = (time.process_time() - self._began) / SLICE
        with self._samples.open("a") as samples:
            samples.write(f"{cost * 1e6:.3f}\n")
        self._ways.append(self._ways.pop(0))
        self._begin()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gatewaysite.settings")
    from django.core.management import execute_from_command_line

    switch = Switch(Path(os.environ["BENCH_SAMPLES"]))
    Journal.answered = lambda *of: switch.answered(*of)  # type: ignore[method-assign]
    execute_from_command_line()
