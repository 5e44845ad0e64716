"""Stores of every kind with trials in them, as other processes may have left them."""

from tests.stores import experiment, local, make_result, make_spec, make_sweep, store

__all__ = ["experiment", "local", "make_result", "make_spec", "make_sweep", "store"]
