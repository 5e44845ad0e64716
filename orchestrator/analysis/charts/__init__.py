"""Charts, a file a kind: from trials to the panels of a figure."""
