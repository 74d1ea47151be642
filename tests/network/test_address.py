"""Addresses of servers, as people write them."""

from __future__ import annotations

import pytest

from launcher.network.address import WrongAddressError, api_url, server_url, told


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:30000/v1", "http://127.0.0.1:30000/v1"),
        ("http://127.0.0.1:30000", "http://127.0.0.1:30000/v1"),
        ("127.0.0.1:30000", "http://127.0.0.1:30000/v1"),
        ("localhost", "http://localhost/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("https://host/v1/embeddings", "https://host/v1"),
        ("https://host/some/proxy/v1", "https://host/some/proxy/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://[fe80::1%25eth0]:1/v1", "http://[fe80::1%25eth0]:1/v1"),
        ("http://b\u00fccher.example/v1", "http://b\u00fccher.example/v1"),
        ("http://under_score:1", "http://under_score:1/v1"),
    ],
)
def test_addresses_of_an_interface(text: str, url: str) -> None:
    assert api_url(text) == url


def test_a_server_may_have_no_path() -> None:
    assert server_url("http://collector:4318/") == "http://collector:4318"


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "http://", "http:///v1", "http://:80", "http://h:0", "http://h:70000"),
        *("http://h:x", "http://[::1", "http://::1]/", "ftp://h", "file:///etc/passwd"),
        *("http://u:geheim@h", "http://geheim@h", "http://h?geheim", "http://h/#geheim"),
        *("http://a b", "http://h/v1\n", "http://h\x00", "http://h\\v1", "http://<h>"),
    ],
)
def test_what_is_no_address_is_told_without_its_secrets(text: str) -> None:
    with pytest.raises(WrongAddressError) as refused:
        api_url(text)
    assert "geheim" not in str(refused.value)
    assert "geheim" not in told(text)
