"""The side with a network."""
