# `make help` lists the targets. `make demo` and `make test` need only Debian 12 (or alike) with python3.11, git and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := proto libs/wire libs/service libs/crypto libs/deid services/catalog services/keystore services/metadata services/dicom-srm client deploy/forwarder deploy/site deploy/local tests/support
SOURCES := $(addsuffix /src,$(filter-out proto,$(PACKAGES)))
ENVIRONMENT := $(VENV)/.complete
# Two test processes, each with whole files, so that what a file's tests share is made once.
PARALLEL := -n 2 --dist loadfile
empty :=
space := $(empty) $(empty)

# Every measurement, the data path first; what fuzzes is for `make soak`.
BENCHES := bench/data_path $(filter-out bench/fuzz_%,$(wildcard bench/*.py)) \
	$(filter-out bench/data_path,$(patsubst %/__main__.py,%,$(wildcard bench/*/__main__.py)))
# How long each part of `make soak` may take.
MINUTES ?= 10

# Where the site of the containers is; `make up` makes one for demonstrations if there is none.
SITE ?= .mdm-site

.PHONY: help env demo images up down ps logs test lint format unit integration e2e bench soak clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9 ]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(ENVIRONMENT) ## Make the Python environment in .venv

$(ENVIRONMENT): requirements/dev.txt requirements/text.txt $(addsuffix /pyproject.toml,$(PACKAGES))
	@.ci/environment "$(PYTHON)" $(VENV) $(PACKAGES)
	@touch $@

demo: $(ENVIRONMENT) ## Start everything on this machine and walk through it with real images
	@$(BIN)/mdm-local demo

images: ## Build the container images
	@deploy/images

up: $(ENVIRONMENT) images ## Start the containers of a site
	@[ -f $(SITE)/site.env ] || $(BIN)/mdm-site init --demo --site $(SITE)
	@deploy/compose $(SITE) up -d

down: ## Stop the containers; what they keep stays
	@deploy/compose $(SITE) down

ps logs: ## Show the containers; follow their logs
	@deploy/compose $(SITE) $(if $(filter logs,$@),logs --tail 20 -f,ps)

test: $(ENVIRONMENT) ## Everything: lint, types, unit, integration and end-to-end tests
	@.ci/components
	@$(MAKE) lint
	@$(MAKE) unit
	@$(MAKE) integration
	@$(MAKE) e2e

lint: $(ENVIRONMENT) ## Style, types, layers, protos and their generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(subst $(space),:,$(strip $(SOURCES))) $(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	$(BIN)/python proto/generate.py --check

format: $(ENVIRONMENT) ## Let ruff format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

unit integration: $(ENVIRONMENT) ## Tests that need no other process; tests against real PostgreSQL, PACS and dcmtk
	$(BIN)/pytest $(PARALLEL) -m $(if $(filter unit,$@),"not integration and not e2e",integration)

e2e: $(ENVIRONMENT) ## Tests through the mdm command against whole stacks: processes, and containers where an engine answers
	$(BIN)/pytest -m e2e tests/e2e
	@if .ci/engine answers; then set -x; deploy/images; $(BIN)/pytest -m e2e tests/e2e --stack compose --timeout 420; \
	elif [ "$${MDM_REQUIRE_ALL:-}" = 1 ]; then echo "no Docker engine answers; everything is required here (MDM_REQUIRE_ALL=1)" >&2; exit 1; \
	else echo "no Docker engine answers: the tests against containers are left out" >&2; fi

bench: $(ENVIRONMENT) ## Run every measurement, small ones with QUICK=1: beside Orthanc, age, crypt4gh, Vault's Shamir, psycopg, other de-identifiers
	$(BIN)/pip install --quiet --require-hashes -r requirements/bench.txt
	.ci/bench $(BIN) $(BENCHES)

soak: $(ENVIRONMENT) ## Longer rounds of what is random: fuzzing, examples, kills; MINUTES bounds each (default 10)
	$(BIN)/pip install --quiet --require-hashes -r requirements/bench.txt
	.ci/soak $(BIN) $(MINUTES)

clean: ## Stop the local stack and remove it with everything generated, .venv included
	@if [ -x $(BIN)/mdm-local ]; then $(BIN)/mdm-local down --purge; fi
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
