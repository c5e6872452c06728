# `make test` alone works on a fresh machine with Python 3.11-3.13 and make: every target builds the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# more than two cores have: many tests wait for processes that they started
WORKERS ?= 3
READY := $(VENV)/.ready

.PHONY: help env quickstart test test-long torture lint fix docs clean
help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(READY)  ## Build .venv from constraints.txt (skipped when up to date).
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	# torch first and pinned, so that no other package asks for a build of its own
	$(BIN)/pip install --quiet -c constraints.txt torch
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet -e ".[dev]"
	touch $@

quickstart: env  ## See a small model learn, in minutes, on a CPU.
	$(BIN)/luthier quickstart

test: env  ## Run all tests that need no GPU, in WORKERS processes.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: env  ## Run the tests that take tens of seconds each: minutes.
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m long

torture: env  ## Break runs on purpose, some hundred thousand times: hours. Writes guide/reliability.json.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture --json guide/reliability.json

lint: env  ## Check style, types and the floors of the rooms.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: env  ## Mend what ruff can mend by itself.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: env  ## Make the guide's pages in docs/ from guide/, and the site in site/.
	$(BIN)/python guide/build.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## Remove what the targets made.
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
