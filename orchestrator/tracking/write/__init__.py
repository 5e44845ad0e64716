"""What a sweep puts into MLflow."""
