"""Stores, and trials to put into them, are what all tests here are about."""

from tests.stores import experiment, local, make_result, make_spec, make_sweep, store

__all__ = ["experiment", "local", "make_result", "make_spec", "make_sweep", "store"]
