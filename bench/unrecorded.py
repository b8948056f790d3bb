"""manage.py of a gateway that neither logs nor counts its requests; what recording costs is the difference to it."""

import os

from relay.http.journal import Journal

Journal.answered = lambda self, request, status: None  # type: ignore[method-assign]

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gatewaysite.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line()
