"""The address of a server that an option names."""

from __future__ import annotations

from launcher.errors import QlaunchError
from launcher.network import address


def api_url(url: str, *, option: str, example: str) -> str:
    """The address as calls need it, with its `/v1` where no path is named.

    Args:
        url: as it was given.
        option: the option that it was given by, for the refusal.
        example: an address that would do.

    Raises:
        QlaunchError: `bad_url` (exit 2); a user or a password in it is not quoted.
    """
    try:
        return address.api_url(url)
    except address.WrongAddressError as error:
        raise QlaunchError(
            f"the address{address.told(url)} of {option} {error}",
            code="bad_url",
            fix=f"give it as {example}, and a key by --api-key-file FILE",
        ) from None
