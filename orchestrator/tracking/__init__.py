"""MLflow: where sweeps are written and read back. Importing the package does not import MLflow; its modules do when used."""
