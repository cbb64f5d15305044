# One file of truth for how the project is installed, run and checked. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := .stamps

.DEFAULT_GOAL := help
.PHONY: help install run test check bench chaos screenshots lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMPS)/install server/web/graphiql.html ## the virtual environment, `candlegraph` in it, and the web bundle

run: install ## serve http://127.0.0.1:8000 (HOST, PORT and DATA_DIR are obeyed)
	@echo "Starting the server at http://$(or $(HOST),127.0.0.1):$(or $(PORT),8000)/"
	@$(BIN)/candlegraph serve

test: install $(STAMPS)/dev $(STAMPS)/clients $(STAMPS)/gql $(STAMPS)/python-client $(STAMPS)/typescript-client $(STAMPS)/timescale $(STAMPS)/pages ## every test; needs nothing that this does not install
	@echo "Running the tests"
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadfile $(ARGS)

check: install $(STAMPS)/dev $(STAMPS)/python-client $(STAMPS)/typescript-client $(STAMPS)/web ## formatting, lint, types, imports, and the spelling and links of the docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd clients/python && ../../$(VENV)/python-client/bin/mypy
	cd clients/typescript && npm run --silent check
	cd web && npm run --silent check
	$(BIN)/lint-imports
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs clients candlegraph storage history providers realtime resolvers schema server migrations
	$(BIN)/lychee --offline --include-fragments --no-progress README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md docs examples clients/python/README.md clients/typescript/README.md

bench: install $(STAMPS)/dev ## the speed and memory figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks

chaos: install $(STAMPS)/dev ## servers, databases and caches killed for some minutes: nothing may be lost or repeated
	$(BIN)/python -m tests.server.chaos
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos.outages
	$(BIN)/python -m tests.chaos.attacks
	$(BIN)/python -m tests.fakes.exchange_lab --cases 10000
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile=search

screenshots: install $(STAMPS)/dev $(STAMPS)/pages ## the picture of the README, from the demo market
	$(BIN)/python -m tests.pages.screenshots

lock: $(STAMPS)/dev ## renew requirements.lock and requirements-dev.lock from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra build --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --quiet --upgrade --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra build --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --quiet --constraint requirements.lock --output-file requirements-dev.lock
	$(BIN)/uv pip compile tests/clients/requirements.in --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --quiet --upgrade --output-file tests/clients/requirements.lock
	$(BIN)/uv pip compile clients/python/pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-annotate --quiet --upgrade --output-file clients/python/requirements.lock

clean: ## remove what `make` made (the data directory is yours and stays)
	rm -rf $(VENV) $(STAMPS) server/web web/node_modules tests/clients/node_modules tests/timescale/node_modules tests/pages/node_modules clients/typescript/node_modules clients/typescript/dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Creating the Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(STAMPS)/install: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing the Python packages of the server (about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: requirements-dev.lock $(STAMPS)/install
	@echo "Installing the Python packages of the tests"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# This page is written last: it is there only when everything that the pages name is.
server/web/graphiql.html: $(wildcard web/package-lock.json web/*.mjs web/src/* web/src/*/* clients/typescript/src/*)
	@echo "Installing the web packages"
	@cd web && npm ci --omit=dev --silent --no-audit --no-fund
	@echo "Building the pages"
	@cd web && node build.mjs

$(STAMPS)/clients $(STAMPS)/timescale $(STAMPS)/pages: $(STAMPS)/%: tests/%/package-lock.json
	@echo "Installing the web packages of tests/$*"
	@cd tests/$* && npm ci --silent --no-audit --no-fund
	@mkdir -p $(STAMPS) && touch $@

# Beside the environment of the server, not in it: gql needs an older graphql-core.
$(STAMPS)/gql: tests/clients/requirements.lock $(STAMPS)/install
	@echo "Installing the Python packages of tests/clients"
	@rm -rf $(VENV)/gql
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes \
	  --target $(VENV)/gql -r tests/clients/requirements.lock
	@touch $@

# An environment of its own: the client and its users' libraries, and nothing of the server.
$(STAMPS)/python-client: clients/python/requirements.lock clients/python/pyproject.toml | $(BIN)/python
	@echo "Installing the Python client and the packages of its tests"
	@rm -rf $(VENV)/python-client
	@$(BIN)/python -m venv $(VENV)/python-client
	@$(VENV)/python-client/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r clients/python/requirements.lock
	@$(VENV)/python-client/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable clients/python
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/typescript-client: clients/typescript/package-lock.json $(wildcard clients/typescript/src/* clients/typescript/tsconfig*.json)
	@echo "Installing the packages of the TypeScript client, and building it"
	@cd clients/typescript && npm ci --silent --no-audit --no-fund && npm run --silent build
	@mkdir -p $(STAMPS) && touch $@

# The compiler and the linter of the pages; building the pages takes them away again.
$(STAMPS)/web: web/package-lock.json server/web/graphiql.html
	@echo "Installing the web packages for developers"
	@cd web && npm ci --silent --no-audit --no-fund
	@touch $@
