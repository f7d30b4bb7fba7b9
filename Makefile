# Ferryman: `make run` starts everything, `make test` proves it.

PORT ?= 5000
DATA_DIR ?= ./var
PYTHON ?= python3
WORKERS ?= 4
BIN = .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run avatars test faults fuzz soak scale load bench bench-quick bench-doors bench-direct bench-processing pictures dist check format clean openapi release-api

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

run: .venv/run ## Start everything on http://localhost:5000 (PORT=5000 DATA_DIR=./var)
	@PORT=$(PORT) DATA_DIR=$(DATA_DIR) exec $(BIN)/python -m local.run

avatars: .venv/avatars ## Start the example of docs/integrate.md beside `make run`, on http://localhost:5001
	@exec $(BIN)/python -m flask --app examples.avatars.avatars run --port 5001

test: .venv/test ## Run all tests on real servers, with coverage (WORKERS=4 ARGS="-k contract")
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered \
		-m "not faults and not fuzz and not soak and not scale" $(ARGS)

faults: .venv/test ## Run the whole fault kit: everything that can die, at every step
	@$(BIN)/python -m pytest tests/faults -m "not soak" $(ARGS)

fuzz: .venv/test ## Let schemathesis try a whole service on both databases, each for FUZZ_SECONDS=120 (SEED=...)
	@$(BIN)/python -m pytest tests/openapi/test_openapi.py -s -m fuzz $(ARGS)

soak: .venv/test ## Load with random faults for SOAK_SECONDS=240
	@$(BIN)/python -m pytest tests/faults -s -m soak $(ARGS)

scale: .venv/test ## A million rows in both databases, 32 writers, a file over 5 GiB
	@$(BIN)/python -m pytest -m scale $(ARGS)

load: .venv/load ## Load a whole service with Locust, and report (USERS=8 SECONDS=30 HOST=http://...)
	@USERS=$(USERS) SECONDS=$(SECONDS) HOST=$(HOST) $(BIN)/python -m load.drive

bench: .venv/bench ## Measure it beside the limit, the article's way and Node peers, some 12 minutes (BENCH_DIR=...)
	@exec $(BIN)/python -m bench

bench-quick: .venv/bench ## The same with few samples, in under 2 minutes
	@exec $(BIN)/python -m bench --quick

bench-doors: .venv/bench ## Measure raw and resumable uploads beside @tus/server
	@$(BIN)/python -m bench.doors

bench-direct: .venv/bench ## Measure direct uploads beside those through the service
	@$(BIN)/python -m bench.direct

bench-processing: .venv/bench ## Measure what images and tables cost, beside other libraries
	@$(BIN)/python -m bench.processing

pictures: .venv/test ## Make the pictures of the page for the docs
	@$(BIN)/python -m tests.kit.pictures

dist: .venv/test ## Build the client's wheel and sdist into dist/
	@$(BIN)/python -m build --outdir dist .

openapi: .venv/test ## Publish the API's document as docs/openapi.json
	@S3_BUCKET_NAME=any SPOOL_DIR=var/openapi $(BIN)/python -c 'import json, app; print(json.dumps(app.create_app().extensions["openapi"], indent=2))' > docs/openapi.json

release-api: ## Promise clients what docs/openapi.json says: a part of every release
	@cp docs/openapi.json docs/openapi-released.json

check: .venv/test ## Check format, lint, types, spelling, what would break clients, and for known weaknesses
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy . .ci/*.py && PYTHONPATH=. $(BIN)/python .ci/breaking.py
	@$(BIN)/codespell && .ci/lint-web && $(BIN)/bandit -q -c pyproject.toml -r . && $(BIN)/python .ci/audit.py

format: .venv/test ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean: ## Remove what was installed and all data of `make run`
	rm -rf .venv var build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache

# What was left half made, and what belongs to a Python that is gone, is made anew.
REMAKE := $(if $(shell .venv/bin/python -c 'import pip; print("whole")' 2>/dev/null),,remake)
.PHONY: remake
.venv/bin/python .venv/run .venv/avatars .venv/test .venv/load .venv/bench: $(REMAKE)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Ferryman needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }

.venv/run: requirements.txt requirements-run.txt requirements-images.txt requirements-tables.txt constraints.txt | .venv/bin/python
	@echo "Installing what Ferryman needs into .venv ..." && $(PIP) -r requirements-run.txt && touch $@

.venv/avatars: requirements.txt requirements-run.txt requirements-images.txt requirements-tables.txt examples/avatars/requirements.txt constraints.txt | .venv/bin/python
	@echo "Installing what the example needs into .venv ..." && $(PIP) -r examples/avatars/requirements.txt && touch $@ .venv/run

.venv/test: requirements.txt requirements-run.txt requirements-images.txt requirements-tables.txt requirements-otel.txt requirements-test.txt constraints.txt | .venv/bin/python
	@echo "Installing what the tests need into .venv ..." && $(PIP) -r requirements-test.txt && touch $@ .venv/run

.venv/load: requirements.txt requirements-run.txt requirements-images.txt requirements-tables.txt requirements-test.txt requirements-load.txt constraints.txt | .venv/bin/python
	@echo "Installing what the load needs into .venv ..." && $(PIP) -r requirements-load.txt && touch $@ .venv/test .venv/run

.venv/bench: requirements.txt requirements-run.txt requirements-images.txt requirements-tables.txt requirements-test.txt requirements-bench.txt constraints.txt | .venv/bin/python
	@echo "Installing what the bench needs into .venv ..." && $(PIP) -r requirements-bench.txt && touch $@ .venv/run .venv/test
