# Everything a fresh checkout needs, without sudo: each target sets itself up, and the second time is quick.
# PYTHON=… names the interpreter to make .venv with; ARGS=… goes to the command a target runs.

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench docs venv clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

help: ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.stamp-dev ## see orch work on this machine; no engine, no GPU, no weights needed
	@$(BIN)/orch demo $(ARGS)
	@[ -e photos ] || [ ! -d orch-demo/scenes-60 ] || { mkdir photos && cp orch-demo/scenes-60/*.png photos; }
	@[ -e truth.json ] || [ ! -d orch-demo/scenes-60 ] || cp orch-demo/scenes-60/annotations.json truth.json

test: lint ## check style and types, then run the tests with coverage
	@echo "make: tests"
	@$(BIN)/python -m pytest --cov $(ARGS)

lint: $(VENV)/.stamp-dev ## check style and types
	@echo "make: style and types"
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@PYTHONPATH=images/runner $(BIN)/lint-imports --no-cache --no-logo

bench: $(VENV)/.stamp-dev ## measure
	@$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.stamp-docs ## make the pages in build/site, and check their links
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet $(ARGS)
	@echo "make: build/site/index.html"

venv: $(VENV)/.stamp-dev ## make .venv with what developing needs

clean: ## remove .venv, caches and what a build leaves
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* htmlcov coverage.xml .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Nothing is resolved here: the lock has every version, and what builds orch itself. `pip check` says if it lacks something.
$(VENV)/.stamp-dev: pyproject.toml dev.lock | $(VENV)/.stamp-python
	@echo "make: installing orch and its development tools into $(VENV)"
	@$(PIP_INSTALL) --no-deps --require-hashes --only-binary :all: --requirement dev.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check
	@touch $@

$(VENV)/.stamp-docs: docs.lock | $(VENV)/.stamp-dev
	@echo "make: installing what makes the pages into $(VENV)"
	@$(PIP_INSTALL) --no-deps --require-hashes --only-binary :all: --requirement docs.lock
	@touch $@

# Tried by running, not by looking: a version manager leaves commands on PATH that only print an error.
$(VENV)/.stamp-python:
	@[ -z "$(PYTHON)" ] || "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    echo "make: PYTHON=$(PYTHON) does not run or is older than 3.11; looking for another" >&2; \
	no_venv=; \
	for python in $(PYTHONS); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || { no_venv="$$no_venv python$$version-venv"; continue; }; \
	    echo "make: making $(VENV) with $$python (Python $$version)"; \
	    "$$python" -m venv --clear $(VENV) && touch $@ && exit 0; \
	    exit 1; \
	done; \
	if [ -n "$$no_venv" ]; then \
	    set -- $$no_venv; \
	    echo "make: this Python comes without venv; type: sudo apt-get install -y $$1" >&2; \
	else \
	    echo "make: no Python 3.11 or newer runs here; type: sudo apt-get install -y python3 python3-venv" >&2; \
	    echo "make: (where that is older than 3.11, as on Ubuntu 22.04: python3.11 python3.11-venv)" >&2; \
	fi; \
	exit 1
