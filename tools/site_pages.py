"""`python -m tools.site_pages FOLDER`: the pages of the web site, laid out as in the repository.

Links between README, docs/ and the few other files that they name are relative to where they stand
here, so the site has the same folders: nothing in them is rewritten.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

ROOT: Final = Path(__file__).resolve().parents[1]
TOP: Final = ("README.md", "README.zh.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_FENCE: Final = re.compile(r"^( *)(```+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_CODE: Final = re.compile(r"`[^`\n]*`")
_LINK: Final = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_ELSEWHERE: Final = ("http://", "https://", "mailto:")


def pages() -> list[Path]:
    """Every page of the site, in the repository."""
    return [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]


def links(page: Path) -> Iterator[str]:
    """Targets of the links in a page that lead to something of ours."""
    text = _CODE.sub("", _FENCE.sub("", page.read_text("utf-8")))
    for target in _LINK.findall(text):
        if not target.startswith(_ELSEWHERE):
            yield target


def led_to(page: Path, target: str) -> tuple[Path, str]:
    """The file that a link leads to, and the anchor in it (empty: none)."""
    name, _, anchor = target.partition("#")
    return (page.parent / unquote(name)).resolve() if name else page, unquote(anchor)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    text = _FENCE.sub("", page.read_text("utf-8"))
    for heading in re.findall(r"^#{1,6} +(.*?)#* *$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number, plain = 1, slug
        while slug in found:
            slug, number = f"{plain}_{number}", number + 1
        found.add(slug)
    return found


def lay_out(folder: Path) -> int:
    """Copy all pages and what they link to; returns the number of files."""
    shutil.rmtree(folder, ignore_errors=True)
    wanted = set(pages())
    for page in pages():
        wanted |= {path for target in links(page) if (path := led_to(page, target)[0]).is_file()}
    for path in sorted(wanted):
        to = folder / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    return len(wanted)


if __name__ == "__main__":
    print(f"{lay_out(Path(sys.argv[1]))} files in {sys.argv[1]}", file=sys.stderr)
