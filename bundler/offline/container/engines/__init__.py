"""The container engines that a host may have, a file for each."""
