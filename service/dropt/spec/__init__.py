"""Vocabulary: what users, workers and the service say to each other, frozen and versioned."""
