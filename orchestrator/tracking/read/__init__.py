"""What MLflow has of sweeps."""
