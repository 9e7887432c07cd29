"""Training, and what goes with it."""
