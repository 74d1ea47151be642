"""Other embedding servers, for comparisons."""
