"""Models: where their files come from, which of them travel, and which other models they need."""
