"""Use cases: what the program does, however it is asked."""
