"""Checks on a model's outputs, weights and place in the hub cache, whichever library loaded it."""
