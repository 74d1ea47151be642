"""Plans: what will run, what it will need, and whether it fits. Pure."""
