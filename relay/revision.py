"""How running gateways learn of a change: every change increments a count in `Revision`, in the same transaction.

The watcher of each process (`relay.routing.watch`) reads that one row several times a second, and the rest only when
a count has moved. This works on any database, without triggers and without Redis.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar, cast

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import F
from django.dispatch import Signal

changed = Signal()
"""Sent in the writer's thread once a change is committed, so that its own process need not wait for the next poll."""


class Revision(models.Model):
    """How often the watched tables have changed; there is one row, or none yet."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    config = models.BigIntegerField(default=0, help_text="Changes of backends, routes and origins.")
    revocations = models.BigIntegerField(default=0, help_text="Changes of the revocations.")
    kicks = models.BigIntegerField(default=0, help_text="Orders to open sockets: kicks and renewals.")
    watched = models.BigIntegerField(default=0, help_text="Number of views of the live connections.")

    class Meta:
        constraints = (models.CheckConstraint(condition=models.Q(pk=1), name="revision_is_one_row"),)

    def __str__(self) -> str:
        return f"config {self.config}, revocations {self.revocations}, kicks {self.kicks}"

    @classmethod
    def current(cls) -> Revision:
        """The counts as last committed."""
        return cls.objects.filter(pk=1).first() or cls()

    @classmethod
    @contextmanager
    def counting(cls, counter: str) -> Iterator[None]:
        """Increment a count in the same transaction as the change.

        The count comes first. Its row stays locked until the commit, so writers queue up here: they can't deadlock,
        and rows become visible in key order, so a watcher can ask for those after the last one it saw.
        """
        with transaction.atomic():
            one_more = {counter: F(counter) + 1}
            if not cls.objects.filter(pk=1).update(**one_more):
                cls.objects.get_or_create(pk=1)
                cls.objects.filter(pk=1).update(**one_more)
            transaction.on_commit(lambda: changed.send_robust(cls))
            yield


_Row = TypeVar("_Row", bound="Counted")


class CountedQuerySet(models.QuerySet[_Row]):
    """Counts the changes that go past `Model.save` and `Model.delete`."""

    def update(self, **kwargs: Any) -> int:
        with Revision.counting(self.model.counter):
            return super().update(**kwargs)

    def delete(self) -> tuple[int, dict[str, int]]:
        with Revision.counting(self.model.counter):
            return super().delete()

    def bulk_create(self, *args: Any, **kwargs: Any) -> list[_Row]:
        with Revision.counting(self.model.counter):
            return super().bulk_create(*args, **kwargs)


class CountedManager(models.Manager[_Row]):
    def get_queryset(self) -> CountedQuerySet[_Row]:
        return CountedQuerySet(self.model, using=self._db)


class Counted(models.Model):
    """A row that running gateways follow, judged field by field by `rules`.

    Attributes:
        counter: The field of `Revision` that counts its changes.
        rules: What a field may hold. A rule gives back the normal form, which then stands in the row, or raises
            `ValidationError`.
    """

    counter: ClassVar[str]
    rules: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    objects = CountedManager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        with Revision.counting(self.counter):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with Revision.counting(self.counter):
            return super().delete(*args, **kwargs)

    def clean_fields(self, exclude: Collection[str] | None = None) -> None:
        """Apply the rules, then Django's own checks (blank, length, choices) to the results.

        Raises:
            ValidationError: One sentence for each invalid field.
        """
        left_out = set(exclude or ())
        errors: dict[str, Any] = {}
        for name in self.rules.keys() - left_out:
            field, value = self.field(name), getattr(self, name)
            if value in field.empty_values:
                continue
            try:
                setattr(self, name, self.rules[name](field.to_python(value)))
            except ValidationError as exc:
                errors[name] = exc.error_list
        try:
            super().clean_fields(left_out | errors.keys())
        except ValidationError as exc:
            errors = exc.update_error_dict(errors)
        if errors:
            raise ValidationError(errors)

    def problems(self) -> list[tuple[str, str]]:
        """(field, sentence) for every problem with this row on its own; puts valid fields into normal form.

        The admin reports the same, and what needs the database: whether the row is unique and its backend exists.
        """
        relations = {field.name for field in self._meta.fields if field.is_relation}
        try:
            self.full_clean(relations, validate_unique=False, validate_constraints=False)
        except ValidationError as exc:
            return [(name, sentence) for name, sentences in exc.message_dict.items() for sentence in sentences]
        return []

    @property
    def label(self) -> str:
        """How a message names this row."""
        return f"{self._meta.verbose_name} {json.dumps(str(self), ensure_ascii=False)}"

    @classmethod
    def field(cls, name: str) -> models.Field[Any, Any]:
        return cast("models.Field[Any, Any]", cls._meta.get_field(name))
