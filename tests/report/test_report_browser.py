"""Reports in a real browser: nothing leaves, nothing complains, nothing runs over the edge."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import report
from tests.patience import eventually
from tests.report import report_samples as given
from tests.report.test_report import life

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--disable-dev-shm-usage", "--no-default-browser-check"),
)

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium: make packages installs it"
)

CROWD = tuple(
    given.mode(given.HOSTILE if n == 3 else f"a mode of number {n}", given.LEVELS, 60.0 + 2 * n)
    for n in range(7)
)
"""Modes whose marks lie on each other."""
PAGES = {
    "comparison": lambda: report.comparison_html(given.comparison(given.HOSTILE)),
    "run": lambda: life(given.run(given.HOSTILE)),
    "failed": lambda: life(given.failed(given.HOSTILE)),
    "crowded": lambda: report.comparison_html(given.comparison(given.HOSTILE, modes=CROWD)),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(DRIVER))
    found.get("about:blank")
    yield found
    found.quit()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in PAGES}
    for name, path in found.items():
        path.write_text(PAGES[name](), "utf-8")
    return found


def show(browser: Any, path: Path, width: int, scheme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(path.as_uri())


def requests(browser: Any) -> list[str]:
    import json

    found = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        # The browser's own start page asks for its icons whenever it gets to it.
        if message["method"] == "Network.requestWillBeSent" and not message["params"][
            "documentURL"
        ].startswith("chrome://"):
            found.append(message["params"]["request"]["url"])
    return found


def complaints(browser: Any) -> list[str]:
    """What the console says, but for the browser's own start page (on a slow machine it does)."""
    messages = [str(entry["message"]) for entry in browser.get_log("browser")]
    return [message for message in messages if not message.startswith("chrome://")]


WIDER = """
return [...document.querySelectorAll('body *')].filter(node => {
  if (node.closest('.scroll, .plot') && !node.matches('.scroll, .plot')) return false;
  const box = node.getBoundingClientRect();
  return box.width > 0 && box.right > window.innerWidth + 1;
}).map(node => node.outerHTML.slice(0, 80));
"""
FIGURES = """
return [...document.querySelectorAll('figure svg')].map(node => {
  const box = node.getBoundingClientRect();
  return [box.width, box.height, node.querySelectorAll('text').length];
});
"""
COLOURS = """
const body = getComputedStyle(document.body);
const text = getComputedStyle(document.querySelector('figure svg text'));
return [body.backgroundColor, body.color, text.fill];
"""


HIDDEN_HINTS = """
return [...document.querySelectorAll('.scroll, .plot')].filter(node => {
  const hint = node.querySelector('.hint');
  const shown = hint !== null && getComputedStyle(hint).display !== 'none';
  return shown !== (node.scrollWidth > node.clientWidth);
}).map(node => [node.scrollWidth, node.clientWidth, node.outerHTML.slice(0, 120)]);
"""
"""What is wider than its place and does not say so, or says so and is not."""
OVERLAPS = """
const found = [];
for (const figure of document.querySelectorAll('figure svg')) {
  const texts = [...figure.querySelectorAll('text')].filter(node => node.textContent.trim());
  const boxes = texts.map(node => node.getBoundingClientRect());
  for (let a = 0; a < boxes.length; a++) for (let b = a + 1; b < boxes.length; b++) {
    const [x, y] = [boxes[a], boxes[b]];
    const spare = 0.25 * Math.min(x.height, y.height);  // air above and below the letters
    if (x.left < y.right - spare && y.left < x.right - spare
        && x.top < y.bottom - spare && y.top < x.bottom - spare)
      found.push(texts[a].textContent + ' | ' + texts[b].textContent);
  }
}
return found;
"""


@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("name", PAGES)
def test_what_is_wider_than_the_page_says_so(
    name: str, width: int, browser: Any, files: dict[str, Path]
) -> None:
    show(browser, files[name], width, "light")
    browser.execute_script(
        "document.querySelectorAll('details').forEach(node => { node.open = true; })"
    )
    # A hint follows the scroll timeline: it is there from the next frame on.
    eventually(lambda: browser.execute_script(HIDDEN_HINTS) == [])


def test_a_page_at_500_px_has_something_to_scroll(browser: Any, files: dict[str, Path]) -> None:
    show(browser, files["comparison"], 500, "light")
    wide = "return [...document.querySelectorAll('.hint')].map(n => getComputedStyle(n).display)"
    assert "block" in browser.execute_script(wide)


NARROW = """
const cells = [...document.querySelectorAll('td.word')];
return cells.map(cell => cell.getBoundingClientRect().width);
"""


def test_a_column_of_single_words_takes_no_room_of_the_sentences_beside_it(
    browser: Any, files: dict[str, Path]
) -> None:
    show(browser, files["run"], 500, "light")
    widths = browser.execute_script(NARROW)
    assert widths
    assert max(widths) < 120


@pytest.mark.parametrize("width", [500, 1200])
@pytest.mark.parametrize("name", PAGES)
def test_labels_of_a_figure_do_not_overlap(
    name: str, width: int, browser: Any, files: dict[str, Path]
) -> None:
    show(browser, files[name], width, "light")
    assert browser.execute_script(OVERLAPS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_renders(
    name: str, width: int, scheme: str, browser: Any, files: dict[str, Path]
) -> None:
    requests(browser)
    show(browser, files[name], width, scheme)
    assert complaints(browser) == []
    assert requests(browser) == [files[name].as_uri()]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(WIDER) == []
    figures = browser.execute_script(FIGURES)
    assert len(figures) == 2
    assert all(w > 300 and h > 60 and texts > 2 for w, h, texts in figures)
    assert given.HOSTILE in browser.execute_script("return document.body.innerText")
    ground, ink, text = browser.execute_script(COLOURS)
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert text == ink, "the text of a figure has the page's colour"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints_in_light(name: str, browser: Any, files: dict[str, Path]) -> None:
    import base64

    show(browser, files[name], 1280, "dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    ground, _, text = browser.execute_script(COLOURS)
    assert (ground, text) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
