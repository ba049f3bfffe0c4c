# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# Where it is set, every process that tests start compiles all of its modules anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-modes sdk bench-tls check format bench bench-full lock vendor screenshots clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.complete ## Make .venv with everything (no system packages needed)

$(VENV)/.complete: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV) && $(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . && touch $@

run: setup ## Serve on the embedded Postgres, with a demo profile to try
	$(BIN)/provserver serve --demo

demo: setup ## Provision simulated devices on all three protocols, print the table
	$(BIN)/python -m tests.demo

test: setup ## Run the whole test suite, on all cores
	$(BIN)/pytest -n auto --dist worksteal

test-modes: setup ## The same with two workers, without our own reader of CoAP, and of HTTP and CoAP (TESTS: which)
	PROVSERVER_TEST_MODE=two-workers $(BIN)/pytest -n auto --dist worksteal $(TESTS)
	PROVSERVER_TEST_MODE=no-coap-front $(BIN)/pytest -n auto --dist worksteal $(TESTS)
	PROVSERVER_TEST_MODE=no-front $(BIN)/pytest -n auto --dist worksteal $(TESTS)

sdk: .venv-sdk/.complete ## Install ThingsBoard's and Blynk's Python clients beside, so that no test of theirs is skipped

.venv-sdk/.complete: tests/conformance/sdk.lock
	$(PYTHON) -m venv --clear .venv-sdk && .venv-sdk/bin/pip install -q --disable-pip-version-check --no-deps --require-hashes -r $< && touch $@

bench-tls: setup ## Compare TLS handshakes with mosquitto's, nothing else
	$(BIN)/python -m benchmarks --only tls

check: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

format: setup ## Let ruff format and mend the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: setup benchmarks/.venv/.complete ## Measure us beside others, print what is reached (10 minutes)
	$(BIN)/python -m benchmarks

bench-full: setup benchmarks/.venv/.complete ## The same with storms, growth, an import of a million, and a soak
	$(BIN)/python -m benchmarks --full

benchmarks/.venv/.complete: benchmarks/amqtt.lock
	$(PYTHON) -m venv --clear benchmarks/.venv && benchmarks/.venv/bin/pip install -q --disable-pip-version-check --require-hashes -r $< && touch $@

lock: ## Pin the newest fitting versions in requirements.lock (needs uv)
	uv pip compile -q --universal --generate-hashes --all-extras --group dev pyproject.toml -o requirements.lock

vendor: setup ## Fetch the console's JavaScript as pinned (needs npm; PACKAGES=htmx.org@2.0.12 pins another)
	$(BIN)/python .ci/vendor.py $(PACKAGES)

screenshots: setup ## Take the pictures of docs/console.md anew (needs Debian's chromium)
	PROVSERVER_TEST_SCREENSHOTS=docs/console $(BIN)/pytest -q tests/browser/test_screenshots.py

clean: ## Remove the environment and the caches (not your data)
	rm -rf $(VENV) .venv-sdk benchmarks/.venv benchmarks/build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
