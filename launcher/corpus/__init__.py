"""A corpus into vectors: readers, writers, the journal, and the run between them."""
