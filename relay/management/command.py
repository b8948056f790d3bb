"""The base of the gateway's commands, which report a wrong command line in one line."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser


class GatewayCommand(BaseCommand):
    """A command whose errors are not preceded by argparse's usage, which may have six lines.

    On the command line such an error ends the process with status 2; `call_command` raises it as a CommandError.
    """

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)

        def error(message: str) -> NoReturn:
            text = f"{' '.join(message.split())}; see {manage(prog_name)} {subcommand} --help"
            if not parser.called_from_command_line:
                raise CommandError(text, returncode=2)
            self.stderr.write(f"CommandError: {text}")  # as Django prints all other errors
            sys.exit(2)

        parser.error = error  # type: ignore[method-assign]  # BaseCommand makes the parser itself
        return parser


def manage(prog_name: str = "") -> str:
    """The command line's beginning, as the operator typed it."""
    return f"python {os.path.basename(prog_name) or 'manage.py'}"
