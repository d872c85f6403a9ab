"""The provisioner's HTTP API: cache → inventory → reads; writes → commands → store."""
