"""One file per server kind: what to ask, and how to read the answers. All of it is pure."""
