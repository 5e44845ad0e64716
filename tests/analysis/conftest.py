"""Stores, and trials to put into them, for what reads them itself."""

from tests.stores import experiment, local, make_result, make_spec, make_sweep

__all__ = ["experiment", "local", "make_result", "make_spec", "make_sweep"]
