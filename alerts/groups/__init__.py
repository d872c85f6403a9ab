"""The rules themselves, a module per group."""
