"""Profiles: schema, loading, precedence, and errors that name file, line and nearest word."""
