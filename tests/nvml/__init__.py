"""A stand-in for the NVIDIA driver's library, and machines scripted for it."""
