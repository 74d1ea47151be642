"""Models: cards, sources, fetching, and inspection of checkpoints without torch."""
