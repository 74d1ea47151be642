"""Air-gapped archives: what is in one, how it is written, read and checked."""
