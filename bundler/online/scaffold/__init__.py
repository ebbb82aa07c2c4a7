"""`bundle init`: a first manifest from the files of a project."""
