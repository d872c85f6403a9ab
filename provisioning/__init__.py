"""Create, watch and rotate LLM instances, and set up the programs around them."""
