"""Signatures over a lock: keys, the envelope that carries them, and signing a bundle in place."""
