"""Proofs of the smoke load: what it must pass, and one broken model for each way it must fail."""
