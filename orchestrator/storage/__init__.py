"""What a sweep keeps until MLflow has it: checkpoints of packs, and results that wait. On a folder, or an object store."""
