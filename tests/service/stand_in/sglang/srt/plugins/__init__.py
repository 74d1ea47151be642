"""Nothing of the engine: the template imports it all the same."""


def load_plugins() -> None:
    """Load none."""
