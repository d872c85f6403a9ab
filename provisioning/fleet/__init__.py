"""Create, watch, rotate and replace the instances of a fleet, as its specification says."""
