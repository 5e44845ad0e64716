"""What happens when anything is killed at any moment."""
