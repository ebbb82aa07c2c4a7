"""Whose bundles a prefix accepts: trusted keys, signatures, sequence numbers, and the policy on pickles."""
