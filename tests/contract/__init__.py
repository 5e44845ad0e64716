"""What holds for every row of every registry: each kind against a reference of its own, and in all that is done with kinds."""
