"""What works and what does not, before a sweep finds out: on this machine, and on every node of a cluster."""
