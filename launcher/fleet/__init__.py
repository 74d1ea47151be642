"""Services beyond one supervisor: units for service managers."""
