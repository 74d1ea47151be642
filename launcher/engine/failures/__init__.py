"""Why an engine ended: its log read, and classified."""
