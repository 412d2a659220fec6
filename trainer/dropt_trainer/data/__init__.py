"""Data sets: where they come from, how their rows are split, and how they become tensors."""
