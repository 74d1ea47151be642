"""Nothing of the engine: the template imports it all the same."""
