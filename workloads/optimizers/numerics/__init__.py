"""Steps whose arithmetic is long. What needs torch, which planning does without."""
