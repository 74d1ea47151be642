"""Quantised copies of checkpoints: made on the CPU, held against float32 before they are kept."""
