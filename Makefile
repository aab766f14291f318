# Everything a person or a build server runs. `make help` lists it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

SOURCES  := $(shell find src launcher -name '*.py' -o -name '*.c' -o -name '*.def')
LAUNCHER := src/northstar/launch/init
EXAMPLES := $(patsubst %/manifest.yaml,%,$(wildcard examples/*/manifest.yaml))

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: $(LAUNCHER) ## a container's whole life on a real runtime, step by step (root)
	@$(BIN)/python scripts/demo

.PHONY: test
test: $(VENV)/.test $(LAUNCHER) ## linters and all tests; ARGS="-k name" for some (root)
	@$(BIN)/pytest $(ARGS)

.PHONY: lint
lint: $(VENV)/.test $(LAUNCHER) ## linters only
	@$(BIN)/pytest -q tests/unit/test_layers.py tests/unit/test_repository.py

.PHONY: vm-test
vm-test: $(VENV)/.test $(LAUNCHER) ## the tests that need cgroup v2 and device-mapper, in QEMU
	@scripts/vm --timeout 1200 -- $(BIN)/pytest -m vm $(ARGS)

.PHONY: vm-shell
vm-shell: $(VENV)/.test $(LAUNCHER) ## a shell in the virtual machine
	@scripts/vm --shell

.PHONY: examples
examples: $(LAUNCHER) ## pack the examples into build/examples
	@$(BIN)/python examples/build.py build/examples

.PHONY: clean
clean: ## remove what make made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f $(LAUNCHER) src/northstar/launch/plan_ops.py
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of things that must be installed. pip's own settings (PIP_*, pip.conf)
# decide where packages come from.
$(VENV)/.run: pyproject.toml scripts/packages
	@scripts/install-packages run
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing northstar into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@scripts/install-packages run test
	@echo "Installing linters and test tools into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

$(LAUNCHER): $(VENV)/.run $(filter launcher/%,$(SOURCES))
	@$(BIN)/python launcher/build.py
	@touch $@
