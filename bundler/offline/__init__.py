"""The side without a network."""
