"""relay.admin.dashboard: the first page, its figures, and who may see them."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.db.models.functions import Now
from django.test import Client

from relay.fleet.models import Sample
from relay.models import Origin
from tests.admin_helpers import staff, text
from tests.fleet_helpers import IDLE, process

pytestmark = pytest.mark.django_db

FIGURES = "/admin/relay/process/figures.json"


def test_the_first_page_is_the_dashboard_with_the_list_of_models(client: Client) -> None:
    """Nothing that was there before is lost."""
    page = staff(client).get("/admin/")
    assert f'data-figures="{FIGURES}"' in page.content.decode()
    for name in ("Dashboard", "Live sockets", "Processes", "Backends", "Routes", "Users", "Recent actions"):
        assert name in text(page)


def test_staff_without_the_permission_have_the_list_alone(client: Client) -> None:
    """And the figures are refused to them."""
    some = staff(client, "view_route")
    page = some.get("/admin/")
    assert b"figures.json" not in page.content
    assert "Routes" in text(page)
    assert some.get(FIGURES).status_code == 403


def test_strangers_are_sent_to_the_login(client: Client) -> None:
    """The script says so instead of showing old figures."""
    response = client.get(FIGURES)
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/")


def test_links_are_for_those_who_may_follow_them(client: Client) -> None:
    """A permission each."""
    page = staff(client, "view_process", "view_backend").get("/admin/").content.decode()
    assert 'data-backends="/admin/relay/backend/"' in page
    assert "data-connections" not in page
    assert "data-refusals" not in page


def test_everybodys_actions_are_for_those_who_may_see_the_log(client: Client) -> None:
    """Who changed something last is what one wants to know first."""
    other = User.objects.create_user("grace")
    origin = Origin.objects.create(origin="https://app.example.com")
    LogEntry.objects.create(
        user=other,
        content_type=ContentType.objects.get_for_model(Origin),
        object_id=str(origin.pk),
        object_repr=str(origin),
        action_flag=CHANGE,
    )
    assert "Origin, grace" in text(staff(client).get("/admin/"))
    assert "grace" not in text(staff(Client(), "view_origin").get("/admin/"))


@pytest.mark.parametrize("since", ["", "0", "x", "-1", "1e9", "9" * 30, "١"])
def test_the_figures_come_whatever_is_asked(client: Client, since: str) -> None:
    """Never cached, as they are of now."""
    Sample.objects.create(process=process().pk, slot=int(time.time()) - 20, sockets=1, requests=2, errors=0, messages=3)
    response = staff(client).get(FIGURES, {"since": since})
    assert response.status_code == 200
    assert len(response.json()["samples"]) == 1
    assert "no-store" in response["Cache-Control"]


def test_the_processes_are_a_list_as_well(client: Client) -> None:
    """For browsers without scripts."""
    process(figures={**IDLE, "sockets": [["/ws", "main", 14]], "requests": 2.5})
    process(pid=2, seen_at=Now() - timedelta(seconds=30), draining=True)
    process(pid=3, draining=True, figures={})
    said = text(staff(client).get("/admin/relay/process/"))
    for fact in ("gw1:1 serving", "14 2.5", "gw1:2 gone 30 s ago", "gw1:3 draining"):
        assert fact in said
