"""Code that runs inside the installed environment: it loads one model with the network cut and checks it.

It imports nothing else of bundler.
"""
