"""Examines the live release and its host for ``bundle doctor``."""
