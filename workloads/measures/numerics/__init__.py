"""What measures compute with. What needs torch, which planning does without."""
