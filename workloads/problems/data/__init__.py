"""Problems with their numbers: read, drawn, and observed by lanes. What needs numpy and torch, which planning does without."""
