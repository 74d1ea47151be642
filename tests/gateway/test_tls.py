"""A certificate that is renewed while a gateway runs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from launcher.errors import QlaunchError
from launcher.gateway.tls import Certificate
from tests.cli.conftest import run
from tests.gateway.test_process import Process, Spawn, gateway, home, server, spawn
from tests.patience import eventually

__all__ = ["gateway", "home", "run", "server", "spawn"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "cert.pem", tmp_path / "key.pem"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def _issue(authority: trustme.CA, files: tuple[Path, Path]) -> None:
    made = authority.issue_cert("127.0.0.1")
    files[0].write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
    files[1].write_bytes(made.private_key_pem.bytes())


def _shown(context: ssl.SSLContext) -> str:
    """The certificate that a client of this context sees, without a network."""
    asks = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asks.check_hostname, asks.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asks.wrap_bio(back, there)
    answering = context.wrap_bio(there, back, server_side=True)
    for side in (client, answering, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


def _first(file: Path) -> str:
    end = "-----END CERTIFICATE-----\n"
    return file.read_text().partition(end)[0] + end


def test_a_renewed_certificate_is_shown_without_a_restart(
    authority: trustme.CA, files: tuple[Path, Path]
) -> None:
    _issue(authority, files)
    held = Certificate(*files)
    before = _shown(held.context)
    assert before == _first(files[0])
    _issue(authority, files)
    held.look()
    assert _shown(held.context) == _first(files[0]) != before


@pytest.mark.parametrize("how", ["cut", "absent", "of another key", "empty"])
def test_a_broken_certificate_leaves_the_one_before(
    how: str, authority: trustme.CA, files: tuple[Path, Path], caplog: Any
) -> None:
    """It is told once, and only if it stays: the two files are replaced one after the other."""
    _issue(authority, files)
    held = Certificate(*files)
    before, key = _shown(held.context), files[1].read_bytes()
    _issue(authority, files)
    if how == "of another key":
        files[1].write_bytes(key)
    elif how == "absent":
        files[0].unlink()
    else:
        files[0].write_bytes(files[0].read_bytes()[: 200 if how == "cut" else 0])
    with caplog.at_level(logging.WARNING, "qlaunch.gateway"):
        held.look()
        assert not caplog.records
        for _ in range(3):
            held.look()
    assert [str(files[0]) in record.getMessage() for record in caplog.records] == [True]
    assert _shown(held.context) == before
    _issue(authority, files)
    held.look()
    assert _shown(held.context) == _first(files[0])


def test_a_key_with_a_passphrase_is_refused_and_none_asked_for(
    authority: trustme.CA, files: tuple[Path, Path]
) -> None:
    """OpenSSL asked the terminal, and the gateway waited there."""
    _issue(authority, files)
    from cryptography.hazmat.primitives import serialization as form

    loaded = form.load_pem_private_key(files[1].read_bytes(), None)
    files[1].write_bytes(
        loaded.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"word")
        )
    )
    with pytest.raises(QlaunchError) as refused:
        Certificate(*files)
    assert refused.value.code == "bad_tls"
    assert "passphrase" in (refused.value.fix or "")


def test_a_gateway_follows_its_certificate(
    spawn: Spawn, server: Process, authority: trustme.CA, files: tuple[Path, Path]
) -> None:
    _issue(authority, files)
    words = ["--tls-cert", str(files[0]), "--tls-key", str(files[1]), f"m={server.url}"]
    made = spawn("-m", "launcher", "gateway", "--port", "0", *words)
    host, _, port = made.url.removeprefix("https://").removesuffix("/v1").partition(":")

    def shown() -> str:
        return ssl.get_server_certificate((host, int(port)))

    assert shown() == _first(files[0])
    _issue(authority, files)
    eventually(lambda: shown() == _first(files[0]))
