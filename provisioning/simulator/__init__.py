"""A simulated fleet of LLM servers with faults, in one process."""
