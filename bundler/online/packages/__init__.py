"""Python packages: from requirements to the exact wheels of a target."""
