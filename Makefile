# The commands for users, developers and the build server. `make help` lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

VM_PYTEST := $(BIN)/pytest -m 'vm and not long' --timeout 360

LAUNCHER := $(wildcard launcher/*.[ch] launcher/*.def launcher/*.py)
EXAMPLES := $(patsubst examples/%/manifest.yaml,%,$(wildcard examples/*/manifest.yaml))
IMAGES   := $(EXAMPLES:%=build/examples/%/.image)
PACKAGES := $(EXAMPLES:%=build/examples/%.npk)

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: $(VENV)/.run $(IMAGES) ## the life cycle of containers on a real runtime, step by step (root)
	@$(BIN)/python scripts/demo

.PHONY: test
test: $(VENV)/.test ## linters and all tests; ARGS="-k name" selects tests (root)
	@$(BIN)/pytest $(ARGS)

.PHONY: lint
lint: $(VENV)/.test ## only the linters
	@$(BIN)/pytest -q tests/unit/test_layers.py tests/unit/test_repository.py

.PHONY: vm-test
vm-test: $(VENV)/.test ## tests that cover more with cgroup v2 or device-mapper, in QEMU (slow)
	@scripts/vm --timeout 3600 -- $(VM_PYTEST) tests/system $(ARGS)

# The test files that may be skipped on machines without these features (MAY_SKIP), and what reads
# other files with cgroup v2.
.PHONY: vm-smoke
vm-smoke: $(VENV)/.test ## those of them that may be skipped elsewhere, and one container
	@scripts/vm --timeout 1200 -- $(VM_PYTEST) tests/system/test_harness.py \
		tests/system/services/test_restart.py \
		$$(grep -rl --include='*.py' '^MAY_SKIP = ' tests/system) $(ARGS)

# The crates are built outside the clone: building takes minutes, and they change rarely.
INTEROP := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/northstar/interop
.PHONY: interop
interop: $(VENV)/.test ## tests with the published Rust crates: client, packages, runtime (root, cargo >= 1.74)
	@scripts/install-packages interop
	@CARGO_TARGET_DIR=$(INTEROP) cargo build -q --locked --manifest-path tests/interop/Cargo.toml \
		--features runtime
	@NORTHSTAR_INTEROP=$(INTEROP)/debug $(BIN)/pytest tests/interop $(ARGS)

.PHONY: sanitize
sanitize: $(VENV)/.test ## the launcher's tests on a launcher with sanitizers (root)
	@NORTHSTAR_TEST_SANITIZE=1 $(BIN)/pytest tests/system/launcher $(ARGS)

.PHONY: clang
clang: $(VENV)/.test ## the launcher's tests, on a launcher built by clang (root)
	@scripts/install-packages fuzz
	@CC=clang-14 $(BIN)/pytest tests/system/launcher $(ARGS)

# Start, mount, store and isolate, without what newer kernels offer.
FALLBACK := test_lifecycle.py test_mounts.py test_repositories.py test_isolation.py test_older_kernel.py
.PHONY: fallback
fallback: $(VENV)/.test ## a selection of system tests as on an older kernel (root)
	@NORTHSTAR_TEST_FALLBACK=1 $(BIN)/pytest $(FALLBACK:%=tests/system/%) $(ARGS)

# In a user namespace of its own, an ordinary user without any privilege, who owns the files.
.PHONY: unprivileged
unprivileged: $(VENV)/.test ## the unit tests as an ordinary user
	@unshare --user --map-user=1000 --map-group=1000 -- \
		$(BIN)/pytest -p no:cacheprovider tests/unit $(ARGS)

RUNS ?= 10000000
.PHONY: fuzz
fuzz: $(VENV)/.test ## libFuzzer on the launcher's parsers; RUNS=1000 for fewer inputs
	@scripts/install-packages fuzz
	@for target in plan program; do \
		$(BIN)/python -m tests.fuzz.launcher $$target --runs $(RUNS) || exit; \
	done

.PHONY: compare
compare: $(VENV)/.test ## benchmark against the published Rust runtime, here and in QEMU (root, cargo >= 1.74)
	@scripts/install-packages interop compare
	@CARGO_TARGET_DIR=$(INTEROP) cargo build -q --locked --manifest-path tests/interop/Cargo.toml \
		--release --features runtime --bin runtime
	@for crate in northstar northstar-nstar; do \
		test -x $(INTEROP)/bin/$$crate || cargo install -q --locked --version =0.9.2 \
			--target-dir $(INTEROP) --root $(INTEROP) $$crate || exit; \
	done
	@NORTHSTAR_COMPARE=$(INTEROP)/release $(BIN)/python -m bench.compare $(ARGS)

.PHONY: site
site: $(VENV)/.site ## the documents as a static site, in build/site
	@$(BIN)/python website/build.py build/site
	@echo build/site/index.html

.PHONY: site-look
site-look: site ## pictures of it by a browser, in build/site-look; what is too wide is an error
	@scripts/install-packages look
	@$(BIN)/python website/look.py build/site build/site-look

.PHONY: reference
reference: $(VENV)/.test ## write the generated pages: docs/reference and docs/man
	@$(BIN)/python -m reference

.PHONY: vm-shell
vm-shell: $(VENV)/.test ## a shell in the virtual machine
	@scripts/vm --shell

.PHONY: examples
examples: $(PACKAGES) ## pack the examples into build/examples

.PHONY: clean
clean: ## remove all files that make created
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f src/northstar/launch/init src/northstar/launch/plan_ops.py
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp file for each set of requirements. pip builds the launcher (launcher/build.py is a build
# hook); its settings (PIP_*, pip.conf) select the package index.
$(VENV)/.run: pyproject.toml scripts/packages $(LAUNCHER)
	@scripts/install-packages run
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing northstar into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -e .
	@$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/.test: $(VENV)/.run
	@scripts/install-packages run test
	@echo "Installing linters and test tools into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.site: $(VENV)/.run
	@echo "Installing the generator of the site into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[site]'
	@touch $@

# An example's image contains the files of root/ and the program compiled from main.c, if present.
# The image has no libraries, so the program is static; musl makes it small.
.SECONDEXPANSION:
build/examples/%/.image: $$(wildcard examples/$$*/main.c examples/$$*/root/*) $(VENV)/.run
	@rm -rf $(@D)/root && mkdir -p $(@D)/root
	@[ ! -d examples/$*/root ] || cp -R examples/$*/root/. $(@D)/root
	@[ ! -f examples/$*/main.c ] || $$(command -v musl-gcc || echo gcc) \
		-std=gnu11 -Os -s -static -Wall -Wextra -Werror -o $(@D)/root/main examples/$*/main.c
	@touch $@

build/examples/%.npk: build/examples/%/.image examples/%/manifest.yaml
	@$(BIN)/sextant pack -m examples/$*/manifest.yaml -r $(<D)/root -o $@
	@echo $@

.SECONDARY: $(IMAGES)
