"""HTTP: one module per resource behind one gate."""
