"""What runs inside the installed environment: one model is loaded with the network cut, and must prove itself."""
