"""Why a fetch failed: one kind of failure each, with its stable code, its sentence and its fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from launcher.errors import ExitCode, QlaunchError
from launcher.network import address
from launcher.network.retry_after import seconds

Kind = Literal[
    "dns_failed",
    "connection_failed",
    "connection_lost",
    "network_timeout",
    "tls_failed",
    "proxy_failed",
    "proxy_auth_required",
    "address_invalid",
    "unauthorized",
    "forbidden",
    "not_found",
    "rate_limited",
    "server_failed",
    "unexpected_answer",
    "download_corrupt",
]
"""Also the code of the error (`errors[].code`), but for those that a fetcher knows better."""


@dataclass(frozen=True)
class Cause:
    """Why an address did not give what was asked for."""

    kind: Kind
    url: str
    """What was asked; shown without credentials and path."""
    detail: str = ""
    """The system's or the server's own words, short."""
    proxy: str | None = None
    """The proxy that is to blame."""
    retry_after_s: int | None = None


@dataclass(frozen=True)
class Client:
    """The variables that one client library obeys, as its users have to name them."""

    address: str
    """For another address of the same service."""
    certificates: str
    """For a file of certificates to trust."""
    token: str
    """For credentials."""
    kept: str = "what was fetched is kept"


HUGGING_FACE: Final = Client(
    "HF_ENDPOINT", "SSL_CERT_FILE", "HF_TOKEN", kept="the files that came whole are kept"
)
MODELSCOPE: Final = Client("MODELSCOPE_ENDPOINT", "REQUESTS_CA_BUNDLE", "MODELSCOPE_API_TOKEN")
PIP: Final = Client(
    "PIP_INDEX_URL", "PIP_CERT", "user and password in PIP_INDEX_URL or in ~/.netrc"
)


@dataclass(frozen=True)
class _Wording:
    code: Kind
    says: str
    fix: str


_WORDINGS: Final = (
    _Wording(
        code="dns_failed",
        says="the name {host} cannot be resolved{detail}",
        fix="check this machine's DNS and network (getent hosts {host}), or the spelling of "
        "{address_variable}",
    ),
    _Wording(
        code="connection_failed",
        says="{address} cannot be reached{detail}",
        fix="check the network, the firewall and whether a proxy is needed (https_proxy), or name "
        "a mirror in {address_variable}",
    ),
    _Wording(
        code="connection_lost",
        says="the connection to {address} broke off{detail}",
        fix="run it again: {kept}; if it breaks off again, look at the proxy and the firewall",
    ),
    _Wording(
        code="network_timeout",
        says="{address} did not answer in time{detail}",
        fix="run it again: {kept}; if it happens again, check the firewall and the proxy, or name"
        " a mirror in {address_variable}",
    ),
    _Wording(
        code="tls_failed",
        says="no trusted TLS connection to {address}{detail}",
        fix="behind a proxy that inspects TLS, or with a certificate of your own, set "
        "{certificates} to the file of the authority's certificates; else check this machine's "
        "clock and the address",
    ),
    _Wording(
        code="proxy_failed",
        says="the proxy {proxy} refuses the connection to {address}{detail}",
        fix="correct http_proxy and https_proxy, or name the host in no_proxy",
    ),
    _Wording(
        code="proxy_auth_required",
        says="the proxy {proxy} asks for a user and a password (HTTP 407)",
        fix="put them into https_proxy as http://USER:PASSWORD@HOST:PORT",
    ),
    _Wording(
        code="address_invalid",
        says="{address} is not an address to fetch from{detail}",
        fix="give {address_variable} as https://HOST, and proxies as http://HOST:PORT",
    ),
    _Wording(
        code="unauthorized",
        says="{address} asks for credentials, or refuses those it got (HTTP 401)",
        fix="set valid credentials: {token}",
    ),
    _Wording(
        code="forbidden",
        says="{address} refuses access (HTTP 403)",
        fix="check that these credentials may read it ({token}), and that no proxy forbids it",
    ),
    _Wording(
        code="not_found",
        says="{address} does not have it (HTTP 404)",
        fix="check the spelling, and whether {address_variable} names the right place",
    ),
    _Wording(
        code="rate_limited",
        says="{address} limits how often it may be asked (HTTP 429){detail}",
        fix="wait, then run it again: {kept}; with credentials the limit is often higher ({token})",
    ),
    _Wording(
        code="server_failed",
        says="{address} has an error of its own{detail}",
        fix="run it again later: {kept}; or name a mirror in {address_variable}",
    ),
    _Wording(
        code="unexpected_answer",
        says="{address} answers with something other than what was asked for{detail}",
        fix="check whether a login page or a proxy answers there, and {address_variable}",
    ),
    _Wording(
        code="download_corrupt",
        says="what came from {address} is not the file that was promised{detail}",
        fix="run it again; if it happens again, that place or a proxy before it serves another"
        " file",
    ),
)
_BY_KIND: Final = {wording.code: wording for wording in _WORDINGS}


def sentence(cause: Cause, client: Client) -> str:
    """What happened, for people: which address or proxy, and in which way."""
    detail = cause.detail
    if cause.retry_after_s is not None:
        detail = f"it asks you to wait {cause.retry_after_s} s"
    return _filled(_BY_KIND[cause.kind].says, cause, client, f" ({detail})" if detail else "")


def fix(cause: Cause, client: Client) -> str:
    """What the user can do about it."""
    return _filled(_BY_KIND[cause.kind].fix, cause, client, "")


def error(what: str, cause: Cause, client: Client, exit_code: ExitCode) -> QlaunchError:
    """The error that a fetcher raises: `what` could not be done, for this cause."""
    return QlaunchError(
        f"{what}: {sentence(cause, client)}",
        code=cause.kind,
        exit_code=exit_code,
        fix=fix(cause, client),
    )


def _filled(text: str, cause: Cause, client: Client, detail: str) -> str:
    return text.format(
        host=address.host(cause.url),
        address=address.shown(cause.url),
        proxy=address.shown(cause.proxy or ""),
        detail=detail,
        address_variable=client.address,
        certificates=client.certificates,
        token=client.token,
        kept=client.kept,
    )


def of_status(status: int, url: str, retry_after: str | None = None) -> Cause:
    """What an HTTP status that is no success means."""
    proxy = address.proxy_for(url)
    if status == 407:
        return Cause("proxy_auth_required", url, proxy=proxy or url)
    kinds: dict[int, Kind] = {
        401: "unauthorized",
        403: "forbidden",
        404: "not_found",
        408: "network_timeout",
        410: "not_found",
        429: "rate_limited",
    }
    if status in kinds:
        wait_s = seconds(retry_after) if status == 429 else None
        return Cause(kinds[status], url, retry_after_s=wait_s)
    kind: Kind = "server_failed" if status >= 500 else "unexpected_answer"
    return Cause(kind, url, f"HTTP {status}")
