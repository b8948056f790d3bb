# Everything from a bare checkout: `make run`, `make test`. `make` alone lists the rest.

PYTHON ?= python3
PORT   ?= 8000
BIN    := .venv/bin
# A file is run by one process: what it starts for all of its tests is started once.
TESTS  ?= -n auto --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help run setup test lint types pytest fmt bench lock clean

help:             ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/runtime ## The gateway with a demo backend and a page to try both; PORT=8001 moves it
	@$(BIN)/python -m demo
# No shell in between: a signal to make must reach it.
run: export PORT := $(PORT)

setup: .venv/dev  ## .venv with every dependency

test: lint types pytest ## Lint, types and the whole test suite

lint: .venv/dev   ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev  ## mypy, strict
	$(BIN)/mypy

pytest: .venv/dev ## The tests alone; TESTS='-n 0 tests/test_x.py' chooses
	$(BIN)/python -X dev -m pytest $(TESTS)

fmt: .venv/dev    ## Format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev  ## The side-by-side benchmark
	$(BIN)/python -m bench

lock: .venv/dev   ## requirements*.txt from the ranges in requirements*.in
	$(BIN)/pip-compile $(LOCK) -o requirements.txt requirements.in
	$(BIN)/pip-compile $(LOCK) -o requirements-otel.txt requirements-otel.in
	$(BIN)/pip-compile $(LOCK) -o requirements-dev.txt requirements-dev.in
LOCK := -q --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

clean:            ## Remove .venv, the demo's data and the tools' caches
	rm -rf .venv data/demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The two stamps say which lock file .venv holds: a second `make run` installs nothing.

.venv/runtime: requirements.txt | .venv/bin/pip
	@echo 'Installing requirements.txt into .venv …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt .venv/runtime
	@echo 'Installing requirements-dev.txt into .venv …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

.venv/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo '$(PYTHON) was not found. Choose a Python 3.11 or newer: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Choose another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo 'The venv module is missing or incomplete. On Debian: apt install python3-venv' >&2; exit 1; }
