"""Checks of untrusted files: wheels, zips and pickles, read without running any of their code."""
