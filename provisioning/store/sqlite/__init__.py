"""Keep a fleet in one SQLite file: the default, with nothing to install."""
