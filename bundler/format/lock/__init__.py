"""The lock of a bundle: what it contains, for which target, and how it is described."""
