"""What lies around the code must agree with it: lock files, image, Makefile, documentation."""

import itertools
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from relay.models import Backend, Route
from relay.refusals import KINDS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXPLANATIONS = (ROOT / "demo/page/explanations.js").read_text()


def text(path: str) -> str:
    return (ROOT / path).read_text()


def variables_read() -> set[str]:
    """The environment variables that gatewaysite/env.py asks for; DEMO is the demo's own business."""
    asked = re.findall(r"""(?:reader\.\w+|_\w+)\(\s*(?:reader,\s*)?"([A-Z][A-Z_]+)\"""", text("gatewaysite/env.py"))
    return set(asked) - {"DEMO"}


# Lock files


def ranges(path: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in text(path).splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def pins(path: str) -> dict[str, str]:
    lines = (line for line in text(path).splitlines() if line and line[0] not in " #")
    parsed = (Requirement(line) for line in lines)
    return {canonicalize_name(found.name): str(found.specifier).removeprefix("==") for found in parsed}


LOCKS = ("requirements", "requirements-otel", "requirements-dev")


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_is_within_the_ranges(name: str) -> None:
    """`make lock` was run after the last change of a range."""
    locked = pins(f"{name}.txt")
    for wanted in ranges(f"{name}.in"):
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


@pytest.mark.parametrize("name", LOCKS)
def test_everything_is_pinned_and_comes_from_no_place_in_particular(name: str) -> None:
    """Exact versions; neither an index nor a path of the machine that made the lock."""
    lines = [line for line in text(f"{name}.txt").splitlines() if line and line[0] not in " #"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; .+)?", line) for line in lines)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(LOCKS, 2)))
def test_the_locks_agree(one: str, other: str) -> None:
    """Tests run what the image runs, with traces as without."""
    first, second = pins(f"{one}.txt"), pins(f"{other}.txt")
    shared = first.keys() & second.keys()
    assert {name: first[name] for name in shared} == {name: second[name] for name in shared}


def test_the_tests_have_the_extras() -> None:
    """All of what traces need."""
    assert pins("requirements-otel.txt").keys() <= pins("requirements.txt").keys() | pins("requirements-dev.txt").keys()


# Environment


def test_the_example_has_every_variable() -> None:
    """`.env.example` is where an operator begins, with compose.yaml too."""
    shown = set(re.findall(r"^#?([A-Z][A-Z_]+)=", text(".env.example"), re.M))
    assert shown == variables_read() | set(re.findall(r"\$\{([A-Z_]+)", text("compose.yaml")))


def test_the_documentation_has_every_variable() -> None:
    """The table of docs/configuration.md, first column."""
    cells = re.findall(r"^\| (`[A-Z].*?) \|", text("docs/configuration.md"), re.M)
    assert {name for cell in cells for name in re.findall(r"`([A-Z_]+)`", cell)} == variables_read()


# Image


def stages() -> list[str]:
    return re.split(r"^FROM ", text("Dockerfile"), flags=re.M)[1:]


def test_the_final_stage_has_no_build_tools() -> None:
    """Compilers stay in the stage that needs them; the others start from the slim image again."""
    first, *_, last = stages()
    assert "gcc" in first
    assert all(word not in last for word in ("apt-get", "gcc", "pip "))
    assert all(stage.startswith("python:${PYTHON}-slim") for stage in stages())


def test_the_image_takes_traces_when_asked() -> None:
    """``--build-arg OTEL=1`` adds their packages to the wheels and to what is installed of them; the image has none."""
    wheels, packages, _ = stages()
    for stage in (wheels, packages):
        assert stage.index("\nARG OTEL\n") < stage.index("${OTEL:+--requirement /requirements-otel.txt}")


def test_the_image_runs_as_nobody_in_particular() -> None:
    """USER comes before CMD, and the process gets the signal that it drains at."""
    last = stages()[-1]
    assert last.index("USER 10001:10001") < last.index('CMD ["python", "manage.py", "serve", "-b", "0.0.0.0"]')
    assert "STOPSIGNAL SIGTERM" in last
    assert "PYTHONUNBUFFERED=1" in last
    assert re.search(r"HEALTHCHECK .*\\\n +CMD \[.*'/health/live'", last)


def test_the_image_holds_what_runs() -> None:
    """What the Dockerfile copies is what .dockerignore lets through, and it exists."""
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", text("Dockerfile"), re.M) for name in line.split()}
    let_through = set(re.findall(r"^!(\S+)$", text(".dockerignore"), re.M))
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


# Makefile


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell: not as the child of the `make test` that may have started us."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("verb", ["run", "setup", "test", "lint", "types", "bench"])
def test_the_verbs_of_the_contract_exist_and_are_listed(verb: str) -> None:
    """`make` alone lists them."""
    assert f"  make {verb} " in make().stdout
    assert make("--dry-run", verb).returncode == 0


@pytest.mark.parametrize(
    ("script", "said"),
    [
        pytest.param(None, "was not found", id="no Python"),
        pytest.param("#!/bin/sh\necho Python 3.9.2\nexit 1\n", "is needed; ./old is Python 3.9.2", id="an old Python"),
    ],
)
def test_a_python_that_will_not_do_is_told_in_one_line(tmp_path: Path, script: str | None, said: str) -> None:
    """What is wrong, and how to choose another one."""
    (tmp_path / "Makefile").write_text(text("Makefile"))
    (tmp_path / "requirements.txt").touch()
    if script:
        (tmp_path / "old").write_text(script)
        (tmp_path / "old").chmod(0o755)
    done = make("-s", "run", "PYTHON=./old", cwd=tmp_path)
    first, rest = done.stderr.split("\n", 1)
    assert done.returncode == 2
    assert said in first
    assert "make PYTHON=" in first
    assert rest.startswith("make: ***")


# Documentation


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Files exist, and so do the headings that are pointed at."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        linked = (document.parent / path) if path else document
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.M)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], (
                target
            )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_are_named_exist(document: Path) -> None:
    """`make …` and `manage.py …`."""
    told = document.read_text()
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", told, re.M)) <= targets
    assert set(re.findall(r"manage\.py ([a-z_]+)", told)) <= get_commands().keys()


def test_what_others_are_called_here_exists() -> None:
    """The right-hand column of docs/migrating.md: variables, and keys of the TOML."""
    here = " ".join(re.findall(r"^\| .+ \| (.+) \|$", text("docs/migrating.md"), re.M))
    assert set(re.findall(r"`([A-Z]+_[A-Z_]+)`", here)) <= variables_read()
    keys = {field.name for model in (Backend, Route) for field in model._meta.get_fields()} | {"url", "urls"}
    claims_and_commands = {"email", "exp", "import_config", "role", "sub", "user_id"}
    assert set(re.findall(r"`([a-z_]+)(?: = [^`]+)?`", here)) - claims_and_commands <= keys


@pytest.mark.parametrize("code", sorted(KINDS))
def test_every_refusal_is_explained(code: str) -> None:
    """In the documentation and on the demo page."""
    assert f"| `{code}` |" in text("docs/troubleshooting.md")
    assert f"\n  {code}: [" in EXPLANATIONS


@pytest.mark.parametrize(("code", "kind"), sorted((code, kind) for code, kind in KINDS.items() if kind.close_code))
def test_every_close_code_is_explained(code: str, kind: Any) -> None:
    """The table of docs/websockets.md has the refusal beside its close code."""
    rows = re.findall(rf"^\| {kind.close_code} \| (.+) \|$", text("docs/websockets.md"), re.M)
    assert any(f"`{code}`" in row for row in rows)
    assert f"\n  {kind.close_code}: " in EXPLANATIONS


def test_every_metric_is_documented() -> None:
    """docs/operations.md says when to look at each."""
    named = set(re.findall(r'"(relay_\w+)"', text("relay/live/metrics.py")))
    assert {name for name in named if name not in text("docs/operations.md")} == set()
