"""What a site does to a tensor: the counter-based op and the kinds of dropout built on it."""
