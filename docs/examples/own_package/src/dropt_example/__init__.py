"""A model, a data set and a loss of one's own."""
