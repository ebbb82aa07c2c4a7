"""The result of a smoke load, and explanations of errors."""
