PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test test-fast lint bench clean
help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/septet: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(BIN)/septet ## make .venv with the tested versions (about 5 GB, 4 minutes)

demo: install ## the whole path on a made miniature of ILSVRC (about 8 minutes on 2 cores)
	$(BIN)/septet demo

test: install ## all tests
	scripts/services
	$(BIN)/pytest --numprocesses 2 --maxschedchunk 1

test-fast: install ## the tests that take seconds
	$(BIN)/pytest -m 'not slow and not ray and not s3'

lint: install ## ruff and mypy, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install ## speed, as ratios measured side by side
	$(BIN)/septet bench all

clean: ## remove what the demo and the tools made
	rm -rf septet-demo mlflow.db mlflow-artifacts .mypy_cache .ruff_cache .pytest_cache
