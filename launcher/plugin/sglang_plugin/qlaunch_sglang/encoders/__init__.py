"""Encoders that pool as their checkpoint says; given to SGLang as its external model package."""
