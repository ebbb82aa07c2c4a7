"""Other files that a manifest asks for: single files by URL, and data that libraries would download themselves."""
