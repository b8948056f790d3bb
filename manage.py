#!/usr/bin/env python
"""Django's command line: ``python manage.py help``."""

import os
import signal
import sys
from types import FrameType

# Not sys.exit in signal handlers: inside a destructor or a module's import, its exception can get lost.


def call_off(number: int, frame: FrameType | None) -> None:
    """Exit with 0, as `serve` does after a signal: there is nothing to drain yet."""
    os._exit(0)


def end(number: int, frame: FrameType | None) -> None:
    """Exit as any other process does on SIGTERM."""
    os._exit(128 + number)


def main() -> None:
    # Before anything is imported, which takes a second.
    if sys.argv[1:2] == ["serve"]:
        for stop in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stop, call_off)  # until the server installs its own handlers
    elif os.getpid() == 1:
        # A container's first process gets only the signals that it handles: without a handler, one stopped during
        # migrate would not notice, and be killed 10 s later.
        signal.signal(signal.SIGTERM, end)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gatewaysite.settings")
    from django import db
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        # Settings that don't parse are for the operator to fix: one line each, no traceback.
        sys.exit(str(exc))
    except db.Error as exc:
        # From Django's own commands too: migrate, createsuperuser, check.
        if "--traceback" in sys.argv:
            raise
        from relay.database import trouble

        sys.exit(trouble(exc))


if __name__ == "__main__":
    main()
