"""Runs the harness under atheris, which looks for bytes that lead to code not seen before: guided.py CORPUS OPTIONS."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["bundler"]):
    from tests.format.fuzz import harness

if __name__ == "__main__":
    atheris.Setup(sys.argv, harness.one)
    atheris.Fuzz()
