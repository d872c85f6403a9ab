"""Build what distributions install."""
