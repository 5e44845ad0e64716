"""What would run: which trials are trained together, by which engine, and what that will cost."""
