"""Several engines as one service: the set's supervisor, and what it decides."""
