"""Sweeps in allocations of Slurm: the batch script, and Ray on the nodes of an allocation for as long as its sweep runs."""
