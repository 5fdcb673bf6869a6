# Everything a person types. `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
UV_VERSION := 0.9.30
BIN := .venv/bin
DATA ?= .sightlog
PORTS ?= default
export UV_PYTHON_DOWNLOADS := never

.PHONY: setup demo stop check docs format test soak browser

setup: .venv/ready

.venv/ready: uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed: make setup PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv sync --frozen --quiet --python $(BIN)/python
	@touch $@

demo: setup
	$(BIN)/python -m deploy.local up --data $(DATA) --ports $(PORTS) --cameras 2 --auto-create \
		--env GATEWAY_AUTH=off

stop:
	$(BIN)/python -m deploy.local stop --data $(DATA)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/python -m services.ingestor statuses > docs/statuses.md

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup
	$(BIN)/pytest -q --numprocesses 2 --no-loadscope-reorder

soak: setup
	$(BIN)/pytest -q -m soak --timeout 3600

browser: setup
	$(BIN)/uv sync --frozen --quiet --group browser --python $(BIN)/python
	$(BIN)/pytest -q -m browser
