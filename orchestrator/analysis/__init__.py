"""What the runs say: figures, claims, comparisons. The drawing library has its home here."""
