"""The gateway's last log lines, so that the page can show them next to each answer."""

import json
import logging
from collections import deque
from typing import Any

from relay.live.lines import JsonFormatter
from relay.live.log import EventRecord

KEPT = 200
"""Lines."""


class Recent(logging.Handler):
    """Keeps the events of the contract's section 9 as they are written to stdout, with secrets masked."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.count = 0
        self.lines: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record, EventRecord):
            self.count += 1
            self.lines.append((self.count, json.loads(self.format(record))))

    def after(self, number: int) -> list[dict[str, Any]]:
        """Return the lines after that number, oldest first."""
        return [line for count, line in self.lines if count > number]


recent = Recent()


def is_not_ours(record: logging.LogRecord) -> bool:
    """Return whether a record is about the gateway's work, not the page's own files and queries."""
    return not (isinstance(record, EventRecord) and getattr(record.event, "path", "").startswith("/demo/"))
