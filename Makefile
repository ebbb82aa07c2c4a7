# Everything runs in .venv, which is made on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# setuptools prints a long warning for each editable installation.
EDITABLE := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable

# In parallel: a process that has finished its tests takes half of those that wait for another.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

.PHONY: help demo test test-ci test-all bench lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed  ## build a bundle, install it with the network cut, print what that proved
	$(BIN)/python demo/demo.py

test: $(VENV)/.installed lint  ## run the tests
	$(PYTEST)

test-ci: $(VENV)/.installed lint  ## run the tests and most of those that take minutes, as CI does
	$(PYTEST) -m "not exhaustive" --durations=25

test-all: $(VENV)/.installed lint  ## run the tests and those that take minutes
	$(PYTEST) -m "long or not long"

bench: $(VENV)/.installed  ## measure speed, memory and disk as ratios within one run
	$(EDITABLE) '.[bench]'
	$(BIN)/python bench/run.py

lint: $(VENV)/.installed  ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(EDITABLE) '.[test]'
	touch $@
