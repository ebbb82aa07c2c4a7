"""What the verbs print: text for a person, JSON for a program, and progress."""
