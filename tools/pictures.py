"""The pictures of docs/images, from real records: `python -m tools.pictures [--comparison FILE]`.

Pages are shown in headless Chromium (scripts/debian-packages browser) in both colour schemes. The
run is one of the record (`--run`, default: the latest), `top` is what runs at the moment.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from launcher import report
from launcher.app.live_view import LiveView
from launcher.cli import top_view
from launcher.cli.runs_report import read_comparison
from launcher.paths import dirs
from launcher.record.bench import bench_rows
from launcher.record.runs import load_run, read_events, read_samples

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 1100
LONGEST = 2600
"""A page is cut there: what comes after is lists."""
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium without a window, with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        found = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield found
        finally:
            found.quit()


def shoot(driver: Any, text: str, name: str, *, until: str = "", width: int = WIDTH) -> None:
    """Write `name.png` and `name-dark.png`; `until` is the heading before which they end."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(text, "utf-8")
        for scheme, suffix in (("light", ""), ("dark", "-dark")):
            metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get(page.as_uri())
            height = driver.execute_script(
                "const end = [...document.querySelectorAll('h2')]"
                ".find(node => node.innerText == arguments[0]);"
                "return end ? end.getBoundingClientRect().top - 10"
                " : document.body.getBoundingClientRect().height;",
                until,
            )
            clip = {"x": 0, "y": 0, "width": width, "height": min(height, LONGEST), "scale": 1}
            shot = driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
            )
            path = IMAGES / f"{name}{suffix}.png"
            path.write_bytes(base64.b64decode(shot["data"]))
            sys.stderr.write(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)\n")


def run_page(wanted: str) -> str:
    """The report of a run, with the folder of engines and models as it is for most."""
    run = load_run(dirs().runs, wanted)
    folder = dirs().runs / run.run
    plain = msgspec.json.encode(run).replace(str(dirs().data).encode(), b"~/.local/share/qlaunch")
    run = msgspec.json.decode(plain, type=type(run))
    return report.run_html(run, read_samples(folder), read_events(folder), bench_rows(folder))


def top_page() -> str | None:
    """What `qlaunch top` shows now, as a page in a terminal's type."""
    from rich.console import Console
    from rich.text import Text

    with contextlib.closing(LiveView()) as watch:
        watch.look()
        time.sleep(1.0)
        found = watch.look()
    if not found["services"]:
        return None
    console = Console(record=True, width=80, color_system="standard", file=io.StringIO())
    console.print(Text.from_ansi("\n".join(top_view.screen(found, 80, 24))))
    body = console.export_html(inline_styles=True, code_format="{code}")
    title = html.escape("qlaunch top")
    return (
        f"<!doctype html><title>{title}</title><style>:root{{color-scheme:light dark}}"
        "body{margin:0;padding:14px;width:max-content}"
        "pre{margin:0;font:14px/1.35 'DejaVu Sans Mono',monospace}</style>"
        f"<pre>{body}</pre>"
    )


def main(argv: list[str]) -> int:
    """Make them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="latest", help="an id, the beginning of one, or latest")
    parser.add_argument("--comparison", type=Path, help="a file that `compare` wrote")
    given = parser.parse_args(argv)
    IMAGES.mkdir(exist_ok=True)
    with browser() as driver:
        shoot(driver, run_page(given.run), "run", until="Load")
        if given.comparison is not None:
            doc = read_comparison(given.comparison)
            shoot(driver, report.comparison_html(doc), "comparison", until="How it was measured")
        if (live := top_page()) is not None:
            shoot(driver, live, "top", width=720)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
