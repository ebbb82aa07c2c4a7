"""The host side: installs, checks and runs a bundle without a network."""
