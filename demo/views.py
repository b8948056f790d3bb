"""The demo page and the data it requests. The views are async and use no database, like the paths that they show.

The page's few files are served from here, not by staticfiles: they need none of its finders, and are sent as they are.
"""

import mimetypes
from pathlib import Path

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse

from demo.log import recent
from demo.people import PEOPLE, claims_of, token_of

FILES = {file.name: file.read_bytes() for file in (Path(__file__).parent / "page").iterdir()}
STRANGER = "http://stranger.localhost:*"
"""Origin of another site's page: browsers resolve every name under .localhost to this machine."""


async def page(request: HttpRequest) -> HttpResponse:
    return _file("index.html", f"default-src 'self'; frame-src {STRANGER}; frame-ancestors 'none'")


async def stranger(request: HttpRequest) -> HttpResponse:
    """Another site's page, in a frame: its script may open sockets to anywhere, like any site's."""
    return _file("stranger.html", "default-src 'self'; connect-src ws: wss:")


async def asset(request: HttpRequest, name: str) -> HttpResponse:
    if name not in FILES or name.endswith(".html"):
        raise Http404
    return _file(name)


async def token(request: HttpRequest, who: str) -> HttpResponse:
    """A fresh token for one of the demo's users; other origins can't read it, as there is no CORS header."""
    person = PEOPLE.get(who)
    if person is None:
        raise Http404
    claims = claims_of(person)
    return _fresh(JsonResponse({"token": token_of(person, claims), "claims": claims}))


async def log(request: HttpRequest) -> HttpResponse:
    """The log lines after ``?after=``, and the number for the next request."""
    after = request.GET.get("after", "0")
    lines = recent.after(int(after)) if after.isdecimal() else []
    return _fresh(JsonResponse({"next": recent.count, "lines": lines}))


def _file(name: str, policy: str = "default-src 'none'") -> HttpResponse:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return _fresh(HttpResponse(FILES[name], content_type=kind, headers={"Content-Security-Policy": policy}))


def _fresh(response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    return response
