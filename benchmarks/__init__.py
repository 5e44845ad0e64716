"""Benchmarks: each runs a rival and us side by side and prints the ratio. Not tests: nothing here passes or fails."""
