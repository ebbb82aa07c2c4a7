"""Builds the container image of an installed release, with whichever engine the host has."""
