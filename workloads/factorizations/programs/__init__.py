"""Training steps of lanes, with every buffer and every view of one made once: a call of PyTorch that makes a view costs as much as a small
product. What needs torch, which planning does without."""
