"""Trials in training: the one loop that drives an engine, and what comes out of it."""
