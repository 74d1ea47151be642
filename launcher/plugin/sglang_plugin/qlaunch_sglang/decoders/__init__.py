"""Decoder embedding models that pool, attend and end as their checkpoint says.

Naming them as an external package spares the engine the import of all its other model files: the
registry then loads its defaults only when an architecture is not found here.
"""
