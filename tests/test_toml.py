"""relay.routing.toml: every problem of a file at once, and a text that reads back as what it was written from."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relay.models import Backend, Counted, Origin, Route
from relay.routing import toml

EXAMPLE = """
[[backend]]
name = "main"
url = "http://127.0.0.1:9000"
health_path = "/api/health"
connect_timeout = 5
read_timeout = 60
max_body_size = 67108864
max_message_size = 16777216
websocket_origin = "omit"
forward_token = false
forward_host = false
tls_verify = true
enabled = true

[[route]]
path = "/api/"
kind = "http"
backend = "main"
methods = []
access = "authenticated"
roles = []
upstream_path = ""
refuse_with = "http"
idle_timeout = 0
max_connections_per_user = 0
message_rate = ""
enabled = true

[[origin]]
origin = "https://app.example.com"
note = "frontend"
enabled = true
"""
"""The contract's, section 3."""

BACKEND = '[[backend]]\nname = "main"\nurl = "http://h"\n'
ROUTE = '[[route]]\npath = "/a"\nbackend = "main"\n'


def test_the_contracts_example_is_read() -> None:
    """Every key of section 3, with the value that is its default."""
    document = toml.parse(EXAMPLE)
    assert document.problems == []
    (backend,), ((route, name),), (origin,) = document.backends, document.routes, document.origins
    assert toml.table(backend) == {**toml.table(Backend()), "name": "main", "urls": ["http://127.0.0.1:9000"]} | {
        "health_path": "/api/health"
    }
    assert toml.table(route) == {**toml.table(Route()), "path": "/api/"}
    assert name == "main"
    assert toml.table(origin) == {"origin": "https://app.example.com", "note": "frontend", "enabled": True}


def test_what_is_left_out_is_the_default() -> None:
    """A row is what the file says, as a whole."""
    document = toml.parse(BACKEND + ROUTE)
    assert document.problems == []
    assert toml.table(document.backends[0]) == {**toml.table(Backend()), "name": "main", "urls": ["http://h"]}


def test_an_empty_file_says_nothing() -> None:
    """And that is no problem."""
    assert toml.parse("") == toml.Document()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("[[backend]\n", "this is not TOML: Expected ']]'", id="no TOML"),
        pytest.param("a = " + "[" * 5000, "this is not TOML:", id="TOML that goes too deep"),
        pytest.param("[[backends]]", 'unknown table "backends"; did you mean "backend"?', id="a table's name"),
        pytest.param("title = 1", 'unknown table "title"; there are backend, route, origin', id="a key at the top"),
        pytest.param("[backend]\nname = 1", "backend: write [[backend]], in double brackets", id="single brackets"),
        pytest.param('route = "x"', "route: write [[route]], in double brackets", id="a key for a table"),
        pytest.param("origin = [1]", "origin: write [[origin]], in double brackets", id="an array of numbers"),
        pytest.param(
            BACKEND + 'helth_path = "/up"',
            'backend "main": unknown key "helth_path"; did you mean "health_path"?',
            id="a key's name",
        ),
        pytest.param(
            BACKEND + "zzz = 1", 'backend "main": unknown key "zzz"; there are name, urls, ', id="no such key"
        ),
        pytest.param(BACKEND + "id = 5", 'backend "main": unknown key "id"', id="the database's own key"),
        pytest.param(ROUTE + 'url = "http://h"', 'route http "/a": unknown key "url"', id="a key of another table"),
        pytest.param(
            '[[backend]]\nurl = "http://h"', 'backend #1: name is missing; write for example name = "main"', id="name"
        ),
        pytest.param('[[backend]]\nname = ""\nurl = "http://h"', "backend #1: name is missing", id="an empty name"),
        pytest.param(
            '[[backend]]\nname = "main"', 'backend "main": url is missing; write for example url =', id="no url"
        ),
        pytest.param('[[backend]]\nname = "main"\nurls = []', 'backend "main": urls is missing;', id="no urls"),
        pytest.param('[[route]]\nbackend = "main"', "route #1: path is missing", id="no path"),
        pytest.param('[[route]]\npath = "/a"', 'route http "/a": backend is missing', id="no backend"),
        pytest.param("[[origin]]", "origin #1: origin is missing", id="no origin"),
        pytest.param(
            BACKEND + 'urls = ["http://i"]', 'backend "main": url and urls are both set; keep one', id="url and urls"
        ),
        pytest.param(
            BACKEND + 'max_body_size = "64M"',
            'backend "main": max_body_size: this is a string; write an integer',
            id="a string for an integer",
        ),
        pytest.param(
            BACKEND + "max_body_size = true",
            'backend "main": max_body_size: this is a boolean; write an integer',
            id="a boolean is no integer",
        ),
        pytest.param(
            BACKEND + "max_body_size = 1.5",
            "max_body_size: this is a float; write an integer",
            id="a float for an integer",
        ),
        pytest.param(
            BACKEND + "enabled = 1", "enabled: this is an integer; write a boolean", id="an integer for a boolean"
        ),
        pytest.param(
            BACKEND + 'enabled = "yes"', "enabled: this is a string; write a boolean", id="a string for a boolean"
        ),
        pytest.param(
            BACKEND + "read_timeout = 2026-01-01",
            "read_timeout: this is a date or time; write an integer or a float",
            id="a date for a number",
        ),
        pytest.param(
            BACKEND + "read_timeout = true",
            "read_timeout: this is a boolean; write an integer",
            id="a boolean for a number",
        ),
        pytest.param(
            BACKEND + "health_path = 5", "health_path: this is an integer; write a string", id="an integer for text"
        ),
        pytest.param(
            BACKEND + "health_path = {}", "health_path: this is a table; write a string", id="a table for text"
        ),
        pytest.param(
            '[[backend]]\nname = "main"\nurl = ["http://h"]', "url: this is an array; write a string", id="url list"
        ),
        pytest.param(
            '[[backend]]\nname = "main"\nurls = "http://h"', "urls: this is a string; write an array", id="urls text"
        ),
        pytest.param(ROUTE + 'methods = "GET"', "methods: this is a string; write an array", id="text for a list"),
        pytest.param(ROUTE + "methods = [1]", "methods: this is an integer; write a string", id="a number in a list"),
        pytest.param(
            ROUTE + 'methods = ["GET,POST"]', "methods: an entry is empty or contains a comma", id="two in one"
        ),
        pytest.param(ROUTE + 'roles = [""]', "roles: an entry is empty", id="an empty entry"),
        pytest.param(
            '[[backend]]\nname = "main"\nurls = ["http://h\\nhttp://i"]',
            "urls: an entry is empty or contains a line break",
            id="nl",
        ),
        pytest.param(
            BACKEND + "max_body_size = 99999999999999999999", "max_body_size: this integer is too large", id="too large"
        ),
        pytest.param(
            BACKEND + "read_timeout = 1" + "0" * 400, "read_timeout: this integer is too large", id="no float"
        ),
        pytest.param(
            ROUTE + 'kind = "websocket"\nmax_connections_per_user = 3000000000',
            "max_connections_per_user: 3000000000 is more than 2147483647",
            id="32 bits",
        ),
        pytest.param(BACKEND + "read_timeout = nan", "read_timeout: nan is not a time", id="not a number"),
        pytest.param(BACKEND + "read_timeout = inf", "read_timeout: inf is not a time", id="infinity"),
        pytest.param(BACKEND + "max_body_size = -1", "max_body_size: -1 is below 0; use 0 for no limit", id="negative"),
        pytest.param(
            '[[backend]]\nname = "main"\nurl = "ftp://x"',
            "backend \"main\": url: 'ftp://x' must begin with http:// or https://",
            id="a url's scheme",
        ),
        pytest.param(
            '[[backend]]\nname = "main"\nurls = ["ftp://x"]',
            "backend \"main\": urls: 'ftp://x' must begin",
            id="urls' scheme",
        ),
        pytest.param(
            '[[route]]\npath = "a"\nbackend = "main"', "route http \"a\": path: 'a' must begin with a slash", id="path"
        ),
        pytest.param(
            ROUTE + 'access = "all"',
            "access: 'all' is not a valid access; use public, authenticated or roles",
            id="access",
        ),
        pytest.param(
            ROUTE + 'kind = "ws"', "route ws \"/a\": kind: 'ws' is not a valid kind; use http or websocket", id="kind"
        ),
        pytest.param(
            ROUTE + 'kind = "websocket"\nrefuse_with = "no"',
            "refuse_with: 'no' is not a way to refuse",
            id="refuse_with",
        ),
        pytest.param(ROUTE + "idle_timeout = 5", "idle_timeout: 5.0 only affects websocket routes", id="idle"),
        pytest.param(ROUTE + 'access = "roles"', "roles: access by roles needs at least one role", id="no roles"),
        pytest.param('[[origin]]\norigin = "null"', "origin \"null\": origin: 'null' is what", id="null"),
        pytest.param(BACKEND + BACKEND, 'backend "main": it is listed twice; keep one', id="a backend twice"),
        pytest.param(
            ROUTE + 'methods = ["get", "POST"]\n' + ROUTE + 'methods = ["POST", "GET"]',
            'route http "/a" (GET,POST): it is listed twice; keep one',
            id="a route twice, in other words",
        ),
        pytest.param(
            '[[origin]]\norigin = "https://a.b"\n[[origin]]\norigin = "https://A.b:443"',
            'origin "https://a.b": it is listed twice; keep one',
            id="an origin twice, in other words",
        ),
    ],
)
def test_a_problem_is_one_line_that_names_its_place_and_the_mend(text: str, problem: str) -> None:
    """Table, key or number, field, and what to do."""
    (line,) = toml.parse(text).problems
    assert line.startswith(problem) or f": {problem}" in line
    assert "\n" not in line


def test_all_problems_are_said_at_once() -> None:
    """Nobody wants to mend a file one message after the other."""
    text = """
        nonsense = 1
        [[backend]]
        name = "a b"
        url = "ftp://x"
        max_body_size = "1"
        [[route]]
        pth = "/x"
        access = "roles"
        [[origin]]
        origin = "null"
    """
    assert len(toml.parse(text).problems) == 9


def test_a_wrong_type_does_not_make_a_second_problem() -> None:
    """Roles that are there, but wrong, are not missing too."""
    assert toml.parse(ROUTE + 'access = "roles"\nroles = 5').problems == [
        'route http "/a": roles: this is an integer; write an array'
    ]


def test_a_password_in_a_url_is_not_repeated() -> None:
    """Problems end up in terminals and build logs."""
    (problem,) = toml.parse('[[backend]]\nname = "main"\nurl = "http://u:hunter2@h:99999"').problems
    assert "hunter2" not in problem


# Writing


def test_only_what_has_to_be_said_is_written() -> None:
    """Defaults are left out; but where a route leads and who gets in is always there to be read."""
    backend, route = Backend(name="b", urls="http://h"), Route(path="/a")
    several = Backend(name="a", urls="http://h\nhttp://i", read_timeout=0.5, connect_timeout=10)
    assert toml.render([backend, several], [(route, "b")], [Origin(origin="*", enabled=False)]) == (
        '[[backend]]\nname = "a"\nurls = ["http://h", "http://i"]\nconnect_timeout = 10\nread_timeout = 0.5\n\n'
        '[[backend]]\nname = "b"\nurl = "http://h"\n\n'
        '[[route]]\npath = "/a"\nkind = "http"\nbackend = "b"\naccess = "authenticated"\n\n'
        '[[origin]]\norigin = "*"\nenabled = false\n'
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_quoted_as_toml_reads_it(text: str) -> None:
    """Quotes, backslashes, control characters, DEL and all of Unicode (TOML 1.0, "String")."""
    assert tomllib.loads(f"x = {toml.quoted(text)}") == {"x": text}


names = st.from_regex(r"\A[A-Za-z0-9_-]{1,8}\Z")
words = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters=","), min_size=1, max_size=6
)
segments = st.from_regex(r"\A[a-zü \"'.~-]{1,6}\Z") | st.sampled_from(["<int:a>", "<slug:b>", "<c>"])
paths = st.lists(segments, max_size=3, unique=True).map(lambda parts: "/" + "/".join(parts))
backends = st.builds(
    Backend,
    name=names,
    urls=st.lists(st.sampled_from(["http://h", "https://h:8443/p", "http://[::1]:1"]), min_size=1, unique=True).map(
        "\n".join
    ),
    health_path=st.sampled_from(["", "/up", "/up?a=%22"]),
    connect_timeout=st.floats(0.001, 1000) | st.integers(1, 1000),
    read_timeout=st.floats(0, 1000),
    max_body_size=st.integers(0, 2**63 - 1),
    max_message_size=st.integers(0, 2**63 - 1),
    websocket_origin=st.sampled_from(["omit", "forward", "https://a.b", "HTTPS://A.b:443"]),
    forward_token=st.booleans(),
    forward_host=st.booleans(),
    tls_verify=st.booleans(),
    enabled=st.booleans(),
)
http_routes = st.builds(
    Route,
    path=paths,
    methods=st.lists(st.sampled_from(["GET", "post", "M-SEARCH"])).map(",".join),
    upstream_path=st.sampled_from(["", "/", "/v1/%22"]),
    enabled=st.booleans(),
)
websocket_routes = st.builds(
    Route,
    path=paths,
    kind=st.just("websocket"),
    access=st.just("roles"),
    roles=st.lists(words, min_size=1).map(",".join),
    refuse_with=st.sampled_from(["http", "close"]),
    idle_timeout=st.floats(0, 1e6),
    max_connections_per_user=st.integers(0, 2**31 - 1),
    message_rate=st.sampled_from(["", "5/s", "5/m; burst=9"]),
)
origins = st.builds(
    Origin,
    origin=st.sampled_from(["*", "https://a.b", "https://*.a.b", "http://x:8080"]),
    note=words,
    enabled=st.booleans(),
)


def unique(rows: list[Any]) -> list[Any]:
    """Valid rows in normal form, one for each key."""
    return list({toml.key(row): row for row in rows if row.problems() == []}.values())


@given(st.lists(backends), st.lists(http_routes | websocket_routes), st.lists(origins))
def test_what_is_written_reads_back_the_same(b: list[Backend], r: list[Route], o: list[Origin]) -> None:
    """Whatever a valid configuration says: no field is lost, none comes back as another."""
    b, r, o = unique(b), unique(r), unique(o)
    assume(b or r or o)
    text = toml.render(b, [(route, "main") for route in r], o)
    document = toml.parse(text)

    def tables(rows: list[Counted]) -> list[toml.Table]:
        return [toml.table(row) for row in sorted(rows, key=toml.key)]

    assert document.problems == []
    assert tables([*document.backends]) == tables([*b])
    assert tables([row for row, name in document.routes if name == "main"]) == tables([*r])
    assert tables([*document.origins]) == tables([*o])
    assert toml.render(document.backends, document.routes, document.origins) == text
