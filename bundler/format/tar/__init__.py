"""The tar file of a bundle: its byte layout, writing, reading and damage reports."""
