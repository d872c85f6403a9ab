"""Keeps hourly roll-ups of a fleet as Parquet, and finds trends and causes in them."""
