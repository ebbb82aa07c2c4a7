"""The steps of a smoke load that probes share, from the request to the measurements."""
