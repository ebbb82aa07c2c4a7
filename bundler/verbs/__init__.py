"""The verbs of the command line, one file for each group of the help; ``cli.py`` joins them."""
