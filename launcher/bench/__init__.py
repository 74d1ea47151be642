"""Load on a service, comparison of modes, tuning."""
