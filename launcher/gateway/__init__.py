"""The caching proxy before embedding servers, and the stores it keeps vectors in."""
