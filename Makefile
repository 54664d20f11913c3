# On a fresh machine, `make run` and `make test` are sufficient.
.PHONY: help venv tools packages run test coverage lint format bench docs screenshots audit lock image e2e e2e-existing clean
.DEFAULT_GOAL := help

# Also with an empty environment.
export PATH ?= /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

PYTHON ?= python3
# Worker processes of the tests; tests/conftest.py has the rules for tests that run in parallel.
WORKERS ?= 4
VENV := .venv
BIN := $(VENV)/bin
FLUX := $(shell command -v flux 2>/dev/null)
# The bindings must match the instance.
FLUX_VERSION := $(if $(FLUX),$(shell flux version 2>/dev/null | awk '/libflux-core/ {print $$2}' | sed 's/-.*//'))

# helm and kind: from the PATH, or else these versions in .tools, by Go; also if neither PATH nor HOME is set.
HELM_VERSION := v3.19.2
KIND_VERSION := v0.30.0
TOOLS := $(CURDIR)/.tools
GO := $(firstword $(shell command -v go 2>/dev/null) $(wildcard /usr/local/go/bin/go))
GO_INSTALL = GOBIN=$(TOOLS)/bin $(if $(HOME),,GOPATH=$(TOOLS)/go GOCACHE=$(TOOLS)/cache) $(GO) install
MISSING := $(foreach tool,helm kind,$(if $(shell command -v $(tool) 2>/dev/null),,$(tool)))

# Debian packages that tests need, if they can be installed.
PACKAGES := $(if $(shell [ "$$(id -u)" = 0 ] && command -v apt-get),$(strip $(foreach tool,prometheus chromium jq zsh tcsh,$(if $(shell command -v $(tool)),,$(tool)))))

# Two recipes use it, in parallel in `make test`, and apt-get fails while another one runs.
APT_GET := flock $(CURDIR)/Makefile apt-get

BUILDER ?= $(firstword $(foreach tool,podman docker buildah,$(shell command -v $(tool) 2>/dev/null)))
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' < sidecar/__init__.py)
IMAGE ?= localhost/flux-sidecar:$(VERSION)
BUILD_FLAGS ?=

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.installed ## create .venv and install everything into it

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 venv")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	  then $(APT_GET) update -qq && $(APT_GET) install -y -qq python3-venv; \
	  else echo "Python's venv module is missing; as root: apt-get install python3-venv" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools # venv seeds an old one, with a known vulnerability, beside Python 3.11
	$(BIN)/pip install --quiet --editable . --group dev
	$(if $(FLUX_VERSION),$(BIN)/pip install --quiet --editable '.[flux]' 'flux-python==$(FLUX_VERSION)')
	@touch $@

tools: $(if $(GO),$(MISSING:%=$(TOOLS)/%.installed)) $(if $(PACKAGES),packages) ## install helm and kind by Go, the rest by apt-get

packages:
	$(APT_GET) update -qq
	DEBIAN_FRONTEND=noninteractive $(APT_GET) install -y -qq --no-install-recommends $(PACKAGES)

$(TOOLS)/helm.installed:
	$(GO_INSTALL) helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
	@touch $@

$(TOOLS)/kind.installed:
	$(GO_INSTALL) sigs.k8s.io/kind@$(KIND_VERSION)
	@touch $@

# On a terminal in use, a line for each request and job would be too much.
RUN_FLAGS ?= --log-level warning

run: venv ## serve a new Flux instance, or this machine where there is no Flux
ifdef FLUX
	PATH="$(CURDIR)/$(BIN):$$PATH" flux start flux-sidecar serve $(RUN_FLAGS)
else
	$(BIN)/flux-sidecar serve --embedded $(RUN_FLAGS)
endif

test: ## run every test that this machine can run
	$(MAKE) --no-print-directory --jobs 4 venv tools # in parallel: one waits for the network, the other compiles
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal --cov --cov-report= --cov-fail-under=$(COVERAGE)

# Branch coverage of what the tests' own processes run, in percent, also without Flux; it only rises.
COVERAGE := 70

coverage: venv ## show the coverage of each module by the tests that run in one process
	$(BIN)/pytest --numprocesses 2 --dist worksteal --cov --cov-report=term tests/unit tests/contract/test_application.py

lint: venv ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: venv ## generate documents from code
	$(BIN)/python -m docs.generate

screenshots: venv tools ## take screenshots of the pages for the README
	$(BIN)/python -m docs.screenshots

bench: venv ## measure against Flux's own rates (needs Flux)
	$(BIN)/python -m bench

lock: venv ## pin the image's dependencies again; BASE_FLUX=VERSION if its base has another Flux
	$(BIN)/pip install --quiet uv
	$(if $(BASE_FLUX),sed -i 's/^flux-python==.*/flux-python==$(BASE_FLUX)/' image/flux.in)
	$(LOCK) pyproject.toml --extra flux --extra tracing --no-emit-package flux-python --output-file image/server.lock
	$(LOCK) image/build.in --output-file image/build.lock
	$(LOCK) image/flux.in --no-deps --output-file image/flux.lock

LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header

image: ## build the container image: IMAGE=NAME:TAG, BUILDER=podman|docker|buildah, BUILD_FLAGS="--build-arg …"
	$(BUILDER) build --file Containerfile --tag $(IMAGE) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null) $(BUILD_FLAGS) .

e2e: venv tools ## test in a new kind cluster, with image, operator and chart
	PATH="$(TOOLS)/bin:$$PATH" BUILDER=$(BUILDER) BUILD_FLAGS="$(BUILD_FLAGS)" tests/e2e/in-kind $(BIN)/pytest

e2e-existing: venv tools ## test in a cluster that has the operator: KUBECONFIG=FILE IMAGE=NAME:TAG (APPLICATION_IMAGE=…, OLD_APPLICATION_IMAGE=…)
	KUBECONFIG="$(KUBECONFIG)" E2E_IMAGE="$(IMAGE)" E2E_APPLICATION_IMAGE="$(APPLICATION_IMAGE)" \
	  E2E_OLD_APPLICATION_IMAGE="$(OLD_APPLICATION_IMAGE)" $(BIN)/pytest tests/e2e

audit: venv ## look for known vulnerabilities in the installed packages (queries PyPI's database)
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

clean: ## remove files of the other targets
	rm -rf $(VENV) .tools e2e-report .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* bench/results
