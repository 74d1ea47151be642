"""Services: the supervisor, its process tree, ports, health and state file."""
