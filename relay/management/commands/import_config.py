"""``import_config``: make the database match a TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django import db
from django.core.management.base import CommandError, CommandParser

from relay import checks
from relay.database import trouble
from relay.management.command import GatewayCommand
from relay.routing import changes, toml


class Command(GatewayCommand):
    help = (
        "Apply a TOML file of backends, routes and origins, all or nothing, without a restart. Each row in the file "
        "is set as a whole, with defaults for what it leaves out; other rows stay, unless --prune is given."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE", help="the TOML file; - reads standard input")
        parser.add_argument("--dry-run", action="store_true", help="show the difference, change nothing")
        parser.add_argument("--prune", action="store_true", help="remove rows that are not in the file")

    def handle(self, *, file: str, dry_run: bool, prune: bool, **options: Any) -> None:
        document = toml.parse(_read(file))
        if prune and not document.problems and not any(document.rows()):
            sentence = "the file is empty, and --prune would remove everything; nothing was changed"
            raise CommandError(f"{file}: {sentence}. Did the command that writes it fail?")
        try:
            found = changes.apply(document, prune=prune, dry_run=dry_run)
        except toml.TomlError as exc:
            count = len(exc.problems)
            raise CommandError(
                f"{file}: {count} problem{'s' if count > 1 else ''}, nothing was changed\n{exc}"
            ) from None
        except db.Error as exc:
            raise CommandError(trouble(exc)) from exc
        for change in found:
            self.stdout.write(str(change))
        self.stdout.write(_summary(found, dry_run))
        for message in checks.not_meant(document.rows()):
            self.stderr.write(f"warning: {checks.line(message)}")


def _read(file: str) -> str:
    """The file's text, without a byte order mark.

    Raises:
        CommandError: The file can't be read, or is not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as exc:
        raise CommandError(f"{file}: can't be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise CommandError(f"{file}: not UTF-8 at byte {exc.start}; save it as UTF-8") from exc


def _summary(found: list[changes.Change], dry_run: bool) -> str:
    if not found:
        return "nothing to change"
    words = (("+", "added"), ("~", "changed"), ("-", "removed"))
    counts = ((sum(change.sign == sign for change in found), word) for sign, word in words)
    summary = ", ".join(f"{count} {word}" for count, word in counts if count)
    return f"dry run, nothing was changed: {summary}" if dry_run else summary
