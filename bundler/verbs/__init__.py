"""What a person types, a file for each side; ``cli.py`` gathers them."""
