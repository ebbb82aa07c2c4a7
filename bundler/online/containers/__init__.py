"""Container images of the builder: base images, from registries."""
