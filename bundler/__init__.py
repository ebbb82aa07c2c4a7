"""Carries Hugging Face models and Python wheels across an air gap."""

__version__ = "0.1.0"
