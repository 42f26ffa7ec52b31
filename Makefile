# Kizashi's verbs. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Any Python from 3.11 on; `make PYTHON=/path/to/python` chooses one.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
JOBS ?= 2
TESTS ?= tests
NAME ?= ingest
FAULTS_INJECTIONS ?= 200
FAULTS_SEED ?=

.PHONY: help
help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.installed-demo ## Run everything on this machine with a sample company (PORT=8000 chooses the port)
	@exec $(BIN)/kizashi demo

.PHONY: check
check: lint types test ## All that must pass before a commit is shared

# Apart, because Playwright keeps an event loop running in its process, where asyncio's tests then cannot run theirs.
# Exit status 5 of pytest: no test of that kind among those asked for.
.PHONY: test
test: $(VENV)/.installed-dev ## Run the tests (TESTS=tests/unit narrows them, JOBS=4 widens them)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations 12 -m "not browser" $(TESTS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations 6 -m browser $(TESTS) || [ $$? -eq 5 ]

.PHONY: lint
lint: $(VENV)/.installed-dev ## Check style, formatting and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: types
types: $(VENV)/.installed-dev ## Check types (mypy --strict)
	$(BIN)/mypy

.PHONY: bench
bench: $(VENV)/.installed-dev ## Run one benchmark: NAME=ingest runs bench/ingest.py
	$(BIN)/python -m bench.$(NAME)

.PHONY: faults
faults: $(VENV)/.installed-dev ## Kill and break everything under load, compare the facts (FAULTS_INJECTIONS=200, FAULTS_SEED=7)
	@mkdir -p .kizashi
	$(BIN)/python -m tests.faults.campaign --injections $(FAULTS_INJECTIONS) --out .kizashi/faults.json $(FAULTS_SEED:%=--seed %)

PEERS := .venv-peers
.PHONY: peers
peers: $(PEERS)/.installed ## Make the environment of the stream processors that bench/ingest.py compares with

$(PEERS)/.installed: bench/peers/requirements.txt $(BIN)/python
	$(BIN)/python -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.PHONY: lock-peers
lock-peers: $(VENV)/.installed-dev ## Pin what the peers need anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --custom-compile-command 'make lock-peers' $(UPGRADE) \
		bench/peers/requirements.in -o bench/peers/requirements.txt

.PHONY: fmt
fmt: $(VENV)/.installed-dev ## Format, and fix what can be fixed safely
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

# The widest file first; the others take their versions from it, so that all of them agree.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock' pyproject.toml
.PHONY: lock
lock: $(VENV)/.installed-dev ## Pin the requirements anew (UPGRADE=--upgrade takes newer versions)
	$(COMPILE) $(UPGRADE) --all-extras -o requirements/all.txt
	$(COMPILE) -c requirements/all.txt -o requirements/run.txt
	$(COMPILE) -c requirements/all.txt --extra demo -o requirements/demo.txt
	echo 'setuptools>=80' | $(COMPILE:pyproject.toml=-) $(UPGRADE) -o requirements/build.txt

.PHONY: clean
clean: ## Remove the environment and every cache (the demo's data stays)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Kizashi needs Python 3.11 or newer, and found none. Install one, or name it:" \
		"make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) could not make a virtual environment." \
		"On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

# Only what the demo needs, so that a first start is short.
$(VENV)/.installed-demo: $(BIN)/python requirements/build.txt requirements/demo.txt pyproject.toml
	@echo "Installing what the demo needs (once; a minute or two) ..."
	@$(PIP_INSTALL) --require-hashes -r requirements/build.txt -r requirements/demo.txt
	@$(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-demo requirements/all.txt
	@echo "Installing what the tests need (once; a minute or two) ..."
	@$(PIP_INSTALL) --require-hashes -r requirements/all.txt
	@touch $@
