"""From what a client library raised, or pip printed, to the one cause behind it.

The libraries wrap the same few errors of the operating system in layers of their own, which change
between releases. So the innermost error that says something decides, by the type that Python gives
it; words decide only where nothing else is left, as in the output of another process.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from launcher.network import address, causes
from launcher.network.causes import Cause, Kind

_UNREACHABLE: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.EADDRNOTAVAIL,
    }
)
_DISK: Final = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.EIO,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ESTALE,
    }
)
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_BUNDLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_CORRUPT: Final = frozenset({"FileIntegrityError", "FileSizeMismatchError"})
_NOT_JSON: Final = frozenset({"JSONDecodeError"})
_ODD_ANSWERS: Final = {
    "TooManyRedirects": "redirects without an end",
    "FileMetadataError": "a file without its hash or revision",
}
_NOT_AS_READ: Final = frozenset(
    {"AttributeError", "TypeError", "KeyError", "IndexError", "AssertionError"}
)
"""What a client library ends with where JSON has another form than it takes for granted."""
_BAD_ADDRESS: Final = frozenset(
    {"UnsupportedProtocol", "InvalidURL", "InvalidSchema", "MissingSchema", "InvalidProxyURL"}
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what caused it, outermost first; also the failures of single files."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        failed = getattr(one, "failed_files", None)
        todo += [one.__cause__ or one.__context__]
        todo += list(failed.values()) if isinstance(failed, dict) else []


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception of a client library carries, if any."""
    for holder in (getattr(error, "response", None), error):
        code = getattr(holder, "status_code", None)
        if type(code) is int:
            return code
    return None


def disk_error(error: BaseException) -> OSError | None:
    """The operating system's refusal of a file, where that is what lies behind `error`."""
    for one in chain(error):
        # By its very class: libraries derive errors of their own from OSError.
        if not isinstance(one, OSError) or type(one).__module__ != "builtins":
            continue
        if isinstance(one, ConnectionError | TimeoutError) or one.errno is None:
            continue
        # A firewall refuses a connection with EACCES or EPERM, which names no file.
        if one.errno in _FULL or (one.errno in _DISK and one.filename is not None):
            return one
    return None


def of_exception(error: BaseException, url: str, proxy: str | None = None) -> Cause | None:
    """Why asking `url` failed, from what a client library raised.

    Args:
        error: what was raised; all that caused it is looked at.
        url: the service's address, where the error does not name what was asked.
        proxy: one that the client has been told of besides the environment's.

    Returns:
        The cause, or None where nothing in it speaks of a network or an answer.
    """
    links = list(chain(error))
    url = _asked(links) or url
    via = address.proxy_for(url, proxy)
    names = {kind.__name__ for one in links for kind in type(one).__mro__}
    tunnel = next((one for one in links if type(one).__name__ == "ProxyError"), None)
    if tunnel is not None:
        return _of_proxy(" ".join(str(one) for one in links), url, via)
    status = next((code for one in links if (code := status_of(one)) is not None), None)
    if status is not None and status >= 400:
        return causes.of_status(status, url, _retry_after(links))
    for one in reversed(links):
        if (found := _of_system(one, url, via)) is not None:
            return found
    if missing := _missing_bundle(links):
        return Cause("tls_failed", url, missing)
    return _of_names(names, links, url)


def _asked(links: list[BaseException]) -> str | None:
    """What was asked when it failed, as the libraries of HTTP note it; hubs send one elsewhere."""
    for one in links:
        try:
            url = getattr(getattr(one, "request", None), "url", None)
        except RuntimeError:  # httpx, where it was not set
            continue
        if url is not None:
            return str(url)
    return None


def _of_system(error: BaseException, url: str, via: str | None) -> Cause | None:
    """What one error of Python's own says."""
    words = _words(error)
    # With a proxy in force nothing else is looked up or connected to.
    if isinstance(error, socket.gaierror):
        return _connect("dns_failed", words, url, via)
    if isinstance(error, ssl.SSLError):
        return Cause("tls_failed", url, _of_tls(error))
    if isinstance(error, ConnectionRefusedError) or (
        isinstance(error, OSError) and error.errno in _UNREACHABLE
    ):
        return _connect("connection_failed", words, url, via)
    if isinstance(error, PermissionError) and error.filename is None:
        return _connect("connection_failed", words, url, via)
    if isinstance(error, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
        return Cause("connection_lost", url, words)
    if type(error) is TimeoutError or type(error) is socket.timeout:
        return Cause("network_timeout", url)
    return None


def _of_names(names: set[str], links: list[BaseException], url: str) -> Cause | None:
    """The libraries' own errors, by the names that they have had for years."""
    if names & _CORRUPT or any("onsistency check failed" in str(one) for one in links):
        return Cause("download_corrupt", url, "size or hash")
    if any(re.search(r"Timeout(?:Error)?$|DeadlineError$", name) for name in names):
        return Cause("network_timeout", url)
    if names & {"RemoteProtocolError", "IncompleteRead", "ProtocolError", "ReadError"}:
        return Cause("connection_lost", url)
    if names & _NOT_JSON:
        return Cause("unexpected_answer", url, "no JSON")
    if names & _BAD_ADDRESS:
        return Cause("address_invalid", url, str(links[-1])[:120])
    for name in _ODD_ANSWERS.keys() & names:
        return Cause("unexpected_answer", url, _ODD_ANSWERS[name])
    found = of_text(" ".join(str(one) for one in links), url)
    if found is None and type(links[-1]).__name__ in _NOT_AS_READ:
        return Cause("unexpected_answer", url, "JSON of another form")
    return found


def _of_proxy(text: str, url: str, via: str | None) -> Cause:
    status = re.search(r"\b(40\d|5\d\d) ([A-Z][A-Za-z -]+)", text)
    if status and status[1] == "407":
        return Cause("proxy_auth_required", url, proxy=via)
    if status:
        return Cause("proxy_failed", url, f"{status[1]} {status[2].strip()}", via)
    found = of_text(text, url)
    return Cause("proxy_failed", url, found.detail or found.kind if found else "", via)


def _connect(kind: Kind, words: str, url: str, via: str | None) -> Cause:
    if via is None:
        return Cause(kind, url, words)
    return Cause("proxy_failed", url, words, via)


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    if isinstance(error, ssl.SSLEOFError):
        return "the connection ended within the handshake"
    return (error.reason or "the handshake failed").replace("_", " ").lower()


def _missing_bundle(links: list[BaseException]) -> str | None:
    """The variable that names a file of certificates which is not there."""
    if not any(isinstance(one, OSError) for one in links):
        return None
    for name in _BUNDLES:
        path = os.environ.get(name)
        if path and not os.path.exists(path):  # noqa: PTH110 - the libraries take it as it is
            return f"{name} names {path}, which does not exist"
    return None


def _retry_after(links: list[BaseException]) -> str | None:
    for one in links:
        headers = getattr(getattr(one, "response", None), "headers", None)
        if headers is not None and (value := headers.get("Retry-After")):
            return str(value)
        own = getattr(one, "retry_after", None)
        if isinstance(own, int | float):
            return str(int(own))
    return None


def _words(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error))[:120]


# --- the words of another process -----------------------------------------------------------------

_VERIFY: Final = re.compile(r"certificate verify failed: ([^'\")]*?)\.?(?: \(_ssl|['\")]|$)")
_STATUS: Final = re.compile(
    r"\b(\d{3}) (?:Client|Server) Error|HTTP error (\d{3})|too many (\d{3}) error responses"
)
_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3}) ?([^'\")]*)")
_RULES: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    (
        "dns_failed",
        re.compile(
            r"Name or service not known|Temporary failure in name resolution|"
            r"No address associated with hostname|Failed to resolve|NameResolutionError"
        ),
    ),
    (
        "tls_failed",
        re.compile(
            r"hostname '[^']*' doesn't match [^\"]*|CERTIFICATE_VERIFY_FAILED|SSLError|"
            r"EOF occurred in violation|WRONG_VERSION_NUMBER|ssl certificate|"
            r"TLS CA certificate bundle"
        ),
    ),
    (
        "connection_failed",
        re.compile(r"Connection refused|No route to host|Network is unreachable|Host is down"),
    ),
    (
        "network_timeout",
        re.compile(
            r"didn't respond within [\d.]+ seconds|[Rr]ead timed out|(?:Connect|Read)Timeout|"
            r"[Cc]onnect(?:ion)? timed? ?out|(?:read|handshake) operation timed out"
        ),
    ),
    (
        "connection_lost",
        re.compile(
            r"Connection reset by peer|closed without a reply|Remote end closed connection|"
            r"RemoteDisconnected|IncompleteRead|incomplete-download|Connection broken|"
            r"Connection aborted|Download failed (?:because|after)"
        ),
    ),
    ("connection_failed", re.compile(r"NewConnectionError|[Ff]ailed to establish a new conn")),
)


def of_text(text: str, url: str, proxy: str | None = None) -> Cause | None:
    """Why asking `url` failed, from one line that a client library wrote."""
    via = address.proxy_for(url, proxy)
    if tunnel := _TUNNEL.search(text):
        if tunnel[1] == "407":
            return Cause("proxy_auth_required", url, proxy=via)
        return Cause("proxy_failed", url, f"{tunnel[1]} {tunnel[2]}".strip(), via)
    if status := _STATUS.search(text):
        return causes.of_status(int(next(filter(None, status.groups()))), url)
    for kind, pattern in _RULES:
        if match := pattern.search(text):
            detail = _detail(kind, match, text)
            if kind in ("dns_failed", "connection_failed"):
                return _connect(kind, detail, url, via)
            return Cause(kind, url, detail)
    return None


def _detail(kind: Kind, match: re.Match[str], text: str) -> str:
    if kind == "tls_failed":
        verify = _VERIFY.search(text)
        return verify[1] if verify else match[0][:120]
    said = re.search(r"\[Errno -?\d+\] ([^'\")\]]+)", text)
    plain = kind in ("network_timeout", "connection_lost")
    return "" if plain else said[1].strip()[:120] if said else ""
