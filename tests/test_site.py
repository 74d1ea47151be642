"""The pages' links, without building the site; and that its menu forgets no page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import profile_keys, site_pages
from tools.site_pages import ROOT, anchors, led_to, links, pages

PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in links(page):
        path, anchor = led_to(page, target)
        if not path.is_relative_to(ROOT) or not path.is_file():  # the site shows no folders
            wrong.append(f"{target}: there is no such file")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            wrong.append(f"{target}: {path.name} has no such heading")
    assert wrong == []


def test_what_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: three\n\n[a](other.md#x) ![b](c.png) `[no](code)` [d](#one-two-three)\n\n"
        "```\n[no](fence)\n```\n\n## 我需要 CPU offload 吗？\n\n## Twice\n\n## Twice\n"
    )
    assert list(links(page)) == ["other.md#x", "c.png", "#one-two-three"]
    assert anchors(page) == {"one-two-three", "我需要-cpu-offload-吗", "twice", "twice_1"}
    assert led_to(page, "#twice") == (page, "twice")


def test_the_menu_names_every_page_once() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"(?:: |- )((?:docs/)?[\w/.-]+\.md)$", menu, re.MULTILINE)
    assert sorted(named) == sorted(page.relative_to(ROOT).as_posix() for page in PAGES)


def test_the_site_has_what_its_pages_link_to(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    count = site_pages.lay_out(folder)
    assert count > len(PAGES)
    assert (folder / "docs" / "images" / "comparison.png").is_file()
    assert (folder / "profiles" / "schema.json").is_file()


def test_the_keys_of_a_profile_are_those_of_its_schema() -> None:
    """`make docs` writes the page."""
    assert profile_keys.DOCUMENT.read_text("utf-8") == profile_keys.page()
    for key in ("extends", "flags", "backoff_initial_s"):
        assert f"| `{key}` |" in profile_keys.page()
