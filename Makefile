# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup run demo test sdk check format lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.complete ## Make .venv with everything (no system packages needed)

$(VENV)/.complete: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV) && $(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . && touch $@

run: setup ## Serve on the embedded Postgres, with a demo profile to try
	$(BIN)/provserver serve --demo

demo: setup ## Provision simulated devices on all three protocols, print the table
	$(BIN)/python -m tests.demo

test: setup ## Run the whole test suite
	$(BIN)/pytest

sdk: .venv-sdk/.complete ## Install ThingsBoard's Python SDK beside, so that its test is not skipped

.venv-sdk/.complete: tests/conformance/sdk.lock
	$(PYTHON) -m venv --clear .venv-sdk && .venv-sdk/bin/pip install -q --disable-pip-version-check --require-hashes -r $< && touch $@

check: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

format: setup ## Let ruff format and mend the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lock: ## Pin the newest fitting versions in requirements.lock (needs uv)
	uv pip compile -q --universal --generate-hashes --all-extras --group dev pyproject.toml -o requirements.lock

clean: ## Remove the environment and the caches (not your data)
	rm -rf $(VENV) .venv-sdk .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
