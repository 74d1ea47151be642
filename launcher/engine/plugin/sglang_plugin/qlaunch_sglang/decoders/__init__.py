"""Decoder embedding models.

Naming them as an external package spares the engine the import of all its other model files: the
registry then loads its defaults only when an architecture is not found here.
"""
