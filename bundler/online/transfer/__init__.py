"""Downloads from any server: pip's configuration, HTTP, the cache, and what the modules of a build share."""
