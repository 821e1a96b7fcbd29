# Everything that can be done with a checkout. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --warn-undefined-variables

# Settings, each to be overridden: make setup PYTHON=/opt/python3.12/bin/python3
PYTHON ?= python3.11 python3.12 python3.13 python3
# The torch that goes in before anything else, so that no dependency range picks another build.
# On a GPU machine name yours: make setup TORCH="torch==2.13.0 --index-url ..."
TORCH ?= torch==2.13.0
# Passed on: make demo ARGS="--items 40", make test ARGS="-k gate"
ARGS ?=
# Set by .ci/run, which has just run the tests: make check TESTED=1
TESTED ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
FAST := not slow and not e2e and not gpu

.PHONY: help setup demo test check lint types docs wheel format e2e harnesses vllm clients train clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.ready-dev ## create .venv and install everything, development tools included
	@echo "ready: $(BIN)"

demo: $(VENV)/.ready ## install what it needs, then run `speceyes demo` (ARGS="--items 40")
	@$(BIN)/speceyes demo $(ARGS)

test: $(VENV)/.ready-dev ## the fast tests and the doctests (ARGS="-k gate")
	@$(BIN)/python -m pytest -m "$(FAST)" $(ARGS)

check: lint types $(if $(TESTED),,test) wheel ## all that must be green: format, lint, types, tests, docs, wheel

lint: $(VENV)/.ready-dev ## format and lint, changing nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.ready-dev ## mypy --strict over src
	@$(BIN)/mypy

docs: $(VENV)/.ready-dev ## do the documents tell the truth? (part of `make test`)
	@$(BIN)/python -m pytest tests/test_docs.py

wheel: $(VENV)/.ready-dev ## build the wheel; import it in a bare environment, without torch
	@rm -rf build/wheel
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	@$(BIN)/python -m venv build/wheel/venv
	@build/wheel/venv/bin/python -m pip --disable-pip-version-check --no-input --quiet install build/wheel/*.whl
	@cd build/wheel && venv/bin/python -I ../../.ci/wheel.py

format: $(VENV)/.ready-dev ## rewrite the code as `make lint` wants it
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

e2e: $(VENV)/.ready-dev harnesses vllm clients ## the slower tests: whole programs, real engines, a real vLLM
	@$(BIN)/python -m pytest -m "(slow or e2e) and not gpu" $(ARGS)

vllm: $(VENV)/.created ## the server of the e2e tests, in build/vllm (3.6 GB; made once)
	@$(BIN)/python tests/e2e/vllm_env.py --torch "$(TORCH)"

clients: $(VENV)/.created ## LiteLLM and other clients of the gateway, in build/clients (900 MB; made once)
	@$(BIN)/python tests/e2e/pinned_env.py clients

harnesses: $(VENV)/.ready ## inspect_ai and lmms-eval, in build/harness (300 MB; made once)
	@$(BIN)/python tests/e2e/pinned_env.py harness

train: $(VENV)/.ready ## train the built-in pair anew (hours on two cores)
	@$(BIN)/python -m training.pair $(ARGS)

clean: ## remove what builds and tests leave behind (.venv stays)
	@rm -rf build/wheel dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests training .ci -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The environment, in three steps, each remembered by a stamp: an interpreter, what runs, what checks.
$(VENV)/.created:
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  chosen=; \
	  for candidate in $(PYTHON); do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      chosen=$$candidate; break; \
	    fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo "speceyes needs Python 3.11 or later with its venv module; tried: $(PYTHON)." >&2; \
	    echo "Install one (Debian, Ubuntu: python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "[1/3] $(VENV) from $$chosen ($$("$$chosen" -V 2>&1))"; \
	  "$$chosen" -m venv $(VENV); \
	fi
	@touch $@

$(VENV)/.ready: pyproject.toml constraints.txt $(VENV)/.created
	@echo "[2/3] $(firstword $(TORCH)), then speceyes with its extras (a minute or two)"
	@$(PIP) install $(TORCH)
	@$(PIP) install --constraint constraints.txt --editable '.[all]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt $(VENV)/.ready
	@echo "[3/3] development tools"
	@$(PIP) install --constraint constraints.txt --editable '.[all,dev]'
	@touch $@
