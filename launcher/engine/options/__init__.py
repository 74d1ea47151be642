"""The options of an engine by version, and those of its own parser."""
