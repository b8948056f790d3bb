"""manage.py for a gateway that neither logs nor counts requests: the difference is the cost of recording."""

import os

from relay.http.journal import Journal

Journal.answered = lambda self, request, status: None  # type: ignore[method-assign]

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gatewaysite.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line()
