"""Every route of every release, held against the guard: what is not named is refused."""

from __future__ import annotations

import pytest

from launcher.engine import releases
from tests.engine import route_page

OPEN = {
    ("/v1/embeddings", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{model:path}", "GET"),
    ("/health", "GET"),
    ("/health_generate", "GET"),
    ("/model_info", "GET"),
    ("/get_model_info", "GET"),
}


def routes(version: str) -> list[tuple[str, str]]:
    return [
        (route["path"], method)
        for route in route_page.table(version)
        for method in route["methods"]
    ]


def test_there_is_a_table_for_every_release_of_the_catalogue() -> None:
    known = {release.version for release in releases.releases().values()}
    assert known <= set(route_page.RELEASES)


@pytest.mark.parametrize("version", route_page.RELEASES)
def test_only_what_an_embedding_service_needs_is_reached(version: str) -> None:
    found = routes(version)
    assert ("/v1/embeddings", "POST") in found
    assert ("/update_weights_from_disk", "POST") in found
    reached = {
        (path, method)
        for path, method in found
        if method != "WEBSOCKET" and route_page.reached(path, method)
    }
    assert reached == OPEN & set(found)


def test_the_page_is_the_tables() -> None:
    assert route_page.PAGE.read_text("utf-8") == route_page.page(), (
        "if that is right: python -m tests.engine.route_page"
    )
