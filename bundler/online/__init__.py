"""The online side: everything that resolves, fetches and packs a bundle on the builder."""
