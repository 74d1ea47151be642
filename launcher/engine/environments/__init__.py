"""Engines on disk: installing, probing, compiling."""
