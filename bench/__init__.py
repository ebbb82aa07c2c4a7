"""The benchmark: speed, memory and disk as ratios within one run."""
