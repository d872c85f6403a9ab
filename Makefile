# Every target sets up what it needs by itself: `.venv` here, programs such as Prometheus in `.programs`.

export OLLAMA_FLEET_PROGRAMS_DIR ?= $(CURDIR)/.programs
# Each worker of the tests compiles 500 modules, unless the first keeps them.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
# More workers than processors: many tests wait for servers. A file stays with one worker, as its tests
# share the servers that they start; tests/conftest.py puts the longest files first.
PYTEST := $(BIN)/python -m pytest -q --dist loadfile --no-loadscope-reorder
FETCH := $(BIN)/python -m tests.programs
# For every platform and Python that the project runs on; the build's own packages are locked too.
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header

.DEFAULT_GOAL := help
.PHONY: help demo test check nightly lint bench load alerts-live programs docs screenshots site format lock dist deb image clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Provision a simulated fleet and two real LLM servers, and watch them, until Ctrl-C
	@.ci/venv demo
	@$(BIN)/ollama-fleet up --simulated 1000 --llama-servers 2

test: lint ## Check formatting, lint, types and tests; print the slowest tests
	@$(FETCH) >/dev/null || true # each test that lacks a program says so
	@$(PYTEST) -n 5 -m "not nightly" --durations=40

check: lint ## Check the quick part: what needs neither real programs nor seconds
	@$(PYTEST) -n 3 -m "not slow and not nightly"

nightly: lint ## Run every test, with new random examples
	@$(FETCH) >/dev/null || true
	@$(PYTEST) -n 4 --durations=40 --timeout=1200

lint: ## Check formatting, lint and types
	@.ci/venv test
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

bench: ## Measure the speeds that the README states
	@.ci/venv test
	@$(BIN)/python -m bench

load: ## Load simulated and real fleets; compare what users, gateway, exporter and PromQL see
	@.ci/venv test
	@$(BIN)/python -m tests.load

alerts-live: ## Prove the alerts with the shipped windows; takes about 55 minutes
	@.ci/venv test
	@$(BIN)/python -m bench.live

programs: ## Fetch the programs that the tests and the demo run beside ours
	@.ci/venv demo
	@$(FETCH)

docs: ## Write the tables of docs/reference from the code
	@.ci/venv test
	@$(BIN)/python -m tests.reference

site: ## Build docs/ as a web site in build/site
	@.ci/venv test
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

screenshots: ## Take pictures of the web pages: each size of fleet and screen, into build/screenshots
	@.ci/venv test
	@$(BIN)/python -m tests.browser.screenshots build/screenshots

format: ## Format the code and mend what the linter can mend
	@.ci/venv test
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

lock: ## Write the lock files anew: the newest versions that pyproject.toml allows, with their hashes
	@.ci/venv test
	@printf 'hatchling\neditables\n' | $(LOCK) --upgrade --extra dev --output-file requirements.lock -
	@printf 'hatchling\neditables\n' | $(LOCK) --constraint requirements.lock --extra all --output-file requirements-demo.lock -

dist: ## Build the wheel and the sdist into dist/
	@.ci/venv test
	@$(BIN)/python -m hatchling build

deb: ## Build the Debian package into dist/, for the Python of this Debian
	@.ci/venv test
	@$(BIN)/python -m packages.deb

image: ## Build the OCI image into dist/, with the Python of this Debian, and print its digest
	@.ci/venv test
	@$(BIN)/python -m packages.image

clean: ## Remove everything that these targets made
	@rm -rf .venv .programs .demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
