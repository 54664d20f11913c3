# Two commands do everything on a fresh machine: `make run` and `make test`.
.PHONY: help venv run test lint format bench docs audit e2e clean
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLUX := $(shell command -v flux 2>/dev/null)
# The bindings have to match the instance; without Flux there is nothing to match.
FLUX_VERSION := $(if $(FLUX),$(shell flux version 2>/dev/null | awk '/libflux-core/ {print $$2}' | sed 's/-.*//'))

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## make .venv and install everything into it

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 venv")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	  then apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else echo "Python's venv module is missing; as root: apt-get install python3-venv" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable . --group dev
	$(if $(FLUX_VERSION),$(BIN)/pip install --quiet --editable '.[flux]' 'flux-python==$(FLUX_VERSION)')
	@touch $@

run: venv ## serve a new Flux instance, or this machine where there is no Flux
ifdef FLUX
	PATH="$(CURDIR)/$(BIN):$$PATH" flux start flux-sidecar serve
else
	$(BIN)/flux-sidecar serve --embedded
endif

test: venv lint ## run every test that this machine can run
	$(BIN)/pytest

lint: venv ## check style, types, layers and generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## put the code into its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv ## write the documents that are made from code
	$(BIN)/python -m docs.generate

bench: venv ## measure against Flux's own rates (needs Flux)
	$(BIN)/python -m bench

audit: venv ## look for known vulnerabilities in what is installed (asks PyPI's database)
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

clean: ## remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/results/*.local.*
