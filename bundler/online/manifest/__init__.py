"""The manifest: its fields, how it is read and checked, and the lint rules."""
