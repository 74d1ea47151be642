"""What runs in the supervisor, the one process that owns a service."""
