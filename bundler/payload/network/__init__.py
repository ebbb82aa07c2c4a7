"""The network cut, the guard of the environment, and the description of refused requests."""
