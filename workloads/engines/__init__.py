"""Engines: ways to advance lanes. All share the protocol in `workloads.engines.base`."""
