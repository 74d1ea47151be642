"""Verification: smoke checks, and parity with the model's own reference."""
