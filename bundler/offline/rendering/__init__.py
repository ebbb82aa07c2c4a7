"""Renders the files that the installer writes for services and containers."""
