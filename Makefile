PYTHON ?= python3
BIN := .venv/bin

# Off: the tests start Python hundreds of times, and each start would compile everything again.
export PYTHONDONTWRITEBYTECODE :=

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' Makefile

APT := apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends

# Debian's Python comes without what makes a virtual environment.
.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(APT) python3-venv; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: .venv/.ready ## make .venv with everything for work on the project

deps: ## install PostgreSQL, RabbitMQ and Chromium by apt where they are missing (Debian, root)
	@missing=; \
	ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || [ -n "$$ORCHESTRA_TEST_PG_URL" ] || missing="$$missing postgresql"; \
	[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing="$$missing rabbitmq-server"; \
	command -v chromium >/dev/null || missing="$$missing chromium fonts-dejavu-core"; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(APT) $$missing; \
	else echo "not installed here:$$missing; only root may do that by apt: the tests say what else there is"; fi

fast: setup ## tests that need no service and go quickly; under a minute
	$(BIN)/pytest -q -m 'not services and not slow' -n auto --dist worksteal --durations=15

# Each process has servers of its own: beyond four they would only be in each other's way.
PARALLEL := -n auto --maxprocesses=4 --dist worksteal

test: deps setup ## the whole suite; starts its own servers
	$(BIN)/pytest -q -m 'not services and not alone' $(PARALLEL) --durations=5
	$(BIN)/pytest -q -m 'services and not alone' $(PARALLEL) --durations=15
	$(BIN)/pytest -q -m alone

explore: deps setup ## property tests with new examples, ten times as many, and every pool on every broker
	$(BIN)/pytest -q -m hypothesis --hypothesis-profile=explore $(PARALLEL) --timeout=7200
	ORCHESTRA_TEST_MATRIX=all $(BIN)/pytest -q tests/integration/test_matrix.py

celery-suite: setup ## Celery's own unit tests, with orchestra installed on every app
	$(BIN)/python -m tests.compat.celery_suite

crash: setup ## kill workers, brokers and databases, and check what is left
	$(BIN)/pytest tests/crash --durations=15

check: lint types ## lint, types and the floors of the import graph
	$(BIN)/pytest -q tests/unit/test_floors.py

lint: setup ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy --strict, and pyright on what users write
	$(BIN)/mypy
	$(BIN)/basedpyright

fmt: setup ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## orchestra beside bare Celery, in one table
	$(BIN)/python -m benchmarks

demo: setup ## a real pipeline on real workers, one of which is killed
	$(BIN)/python -m examples.demo

screenshots: deps setup ## the pictures of the admin view in docs/images
	$(BIN)/python docs/screenshots.py

.PHONY: screenshots help setup deps fast test explore celery-suite crash check lint types fmt bench demo
