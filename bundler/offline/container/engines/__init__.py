"""Container engines: one file each, which ends with ``ENGINE``; nothing else lists them."""
