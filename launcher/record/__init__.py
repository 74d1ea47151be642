"""Records: the sampler, and the account of one life of a service."""
