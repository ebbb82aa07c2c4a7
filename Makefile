# Everything runs in an environment of its own, .venv, made on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# setuptools warns of each editable installation, at length.
EDITABLE := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable

# Side by side; a process that has nothing left takes half of what waits for another.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: help demo test test-ci test-all bench lint clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed  ## build a bundle, install it with the network cut, print what that proved
	$(BIN)/python demo/demo.py

test: $(VENV)/.installed lint  ## the tests
	$(PYTEST)

test-ci: $(VENV)/.installed lint  ## the tests and most of the proofs that take minutes, as CI runs them
	$(PYTEST) -m "not exhaustive" --durations=25

test-all: $(VENV)/.installed lint  ## the tests and the proofs that take minutes
	$(PYTEST) -m "long or not long"

bench: $(VENV)/.installed  ## measure speed, memory and disk as ratios within one run
	$(EDITABLE) '.[bench]'
	$(BIN)/python bench/run.py

lint: $(VENV)/.installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environment and what was built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(EDITABLE) '.[test]'
	touch $@
