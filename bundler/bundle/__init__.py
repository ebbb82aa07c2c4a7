"""What crosses the gap."""
