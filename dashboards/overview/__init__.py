"""The overview: is the fleet well, and if not, where to look; a module per part of it."""
