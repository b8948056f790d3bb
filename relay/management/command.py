"""What the gateway's commands have in common: a command line that can't be used is told in one line."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser


class GatewayCommand(BaseCommand):
    """A command without argparse's usage before its errors: that is up to six lines of help that nobody asked for.

    From the command line such an error ends the process with 2; `call_command` raises it as a CommandError.
    """

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)

        def error(message: str) -> NoReturn:
            text = f"{' '.join(message.split())}; see {manage(prog_name)} {subcommand} --help"
            if not parser.called_from_command_line:
                raise CommandError(text, returncode=2)
            self.stderr.write(f"CommandError: {text}")  # as Django does it, but for those of the command line
            sys.exit(2)

        parser.error = error  # type: ignore[method-assign]  # BaseCommand makes the parser itself
        return parser


def manage(prog_name: str = "") -> str:
    """How this project's commands are called."""
    return f"python {os.path.basename(prog_name) or 'manage.py'}"
