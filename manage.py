#!/usr/bin/env python
"""Django's command line: ``python manage.py help``."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gatewaysite.settings")
    from django import db
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        # Settings that don't parse are the operator's to mend: one line for each, no traceback.
        sys.exit(str(exc))
    except db.Error as exc:
        # Django's own commands too: migrate, createsuperuser, check.
        if "--traceback" in sys.argv:
            raise
        from relay.database import trouble

        sys.exit(trouble(exc))


if __name__ == "__main__":
    main()
