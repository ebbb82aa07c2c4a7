"""What a bundle file is: its lock, tar and signatures, and checks of untrusted content. Builder and host share it."""
