"""Plan the capacity of a fleet and its costs; say what a running fleet has left."""
