"""Where dropout acts in a model: sites are found, instrumented and checked without editing it."""
