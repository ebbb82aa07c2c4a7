"""The release's Python environment: packages, the guard at each start of Python, and the Hugging Face cache."""
