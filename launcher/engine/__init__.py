"""Engines: the release catalogue, environments, argv and failure classes."""
