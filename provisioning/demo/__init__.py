"""The programs around us: found or fetched, configured, started and stopped together."""
