"""A page that somebody opens in a browser on the machine of a service: what it can do to it.

A real Chromium, a page of another origin, the real engine. Every way that a page has to send
something: nothing it gets can be read, and nothing it asks is done.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.engine_real import fuzz
from tests.engine_real.conftest import Running
from tests.engine_real.fuzz import Case, send
from tests.engine_real.qlaunch import Home
from tests.report.test_report_browser import BROWSER, DRIVER, FLAGS

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium: make packages installs it"
)

STRANGER = "evil.example"
"""A name that the browser resolves to this machine: another's page, or a rebound name."""
SECRET = "a text that no other caller asks " * 12
"""Long enough to be known by its size in the engine's log."""
SECRET_TOKENS = 50
"""Fewer than it has, and more than anything else that is asked here."""

ATTACKS = """
const [base, secret, file, done] = [...arguments];
const wait = ms => new Promise(resolve => setTimeout(resolve, ms));
const call = JSON.stringify({model: 'all-minilm-l6-v2', input: secret});
const read = async (path, options) => {
  try {
    const answer = await fetch(base + path, options);
    return {type: answer.type, status: answer.status, text: await answer.text()};
  } catch (error) { return {failed: String(error)}; }
};
const admin = {
  '/update_weights_from_disk': {model_path: '/tmp'},
  '/configure_logging': {log_requests: true, dump_requests_folder: file},
  '/start_profile': {output_dir: file},
  '/pause_generation': {},
  '/flush_cache': {},
  '/generate': {text: secret},
  '/encode': {text: secret},
};
const posts = {'/v1/embeddings': JSON.parse(call), ...admin};
const form = (path, type) => {
  const frame = document.createElement('iframe');
  frame.name = 'f' + Math.random();
  document.body.append(frame);
  const element = document.createElement('form');
  Object.assign(element, {action: base + path, method: 'POST', target: frame.name, enctype: type});
  const field = document.createElement('input');
  field.name = call.slice(0, -1) + ',"user":"';
  field.value = '"}';
  element.append(field);
  document.body.append(element);
  element.submit();
};
const tag = (name, path) => new Promise(resolve => {
  const element = document.createElement(name);
  element.onload = () => resolve('loaded');
  element.onerror = () => resolve('refused');
  element[name === 'link' ? 'href' : 'src'] = base + path;
  if (name === 'link') element.rel = 'stylesheet';
  document.body.append(element);
  setTimeout(() => resolve('nothing'), 5000);
});
const socket = path => new Promise(resolve => {
  try {
    const link = new WebSocket(base.replace('http', 'ws') + path);
    link.onopen = () => { link.send(call); resolve('opened'); };
    link.onerror = () => resolve('refused');
  } catch (error) { resolve('refused'); }
  setTimeout(() => resolve('nothing'), 5000);
});
(async () => {
  const found = {};
  for (const [path, document_] of Object.entries(posts)) {
    const body = JSON.stringify(document_);
    const json = {'Content-Type': 'application/json'};
    found['plain ' + path] = await read(path, {method: 'POST', body});
    found['preflight ' + path] = await read(path, {method: 'POST', body, headers: json});
    found['credentials ' + path] =
      await read(path, {method: 'POST', body, headers: json, credentials: 'include'});
    found['no-cors ' + path] = await read(path, {method: 'POST', body, mode: 'no-cors'});
    found['beacon ' + path] = navigator.sendBeacon(base + path, body);
    form(path, 'text/plain');
    form(path, 'application/x-www-form-urlencoded');
    found['socket ' + path] = await socket(path);
  }
  for (const path of ['/v1/models', '/model_info', '/server_info', '/metrics', '/health']) {
    found['GET ' + path] = await read(path, {});
    found['GET credentials ' + path] = await read(path, {credentials: 'include'});
    found['script ' + path] = await tag('script', path);
    found['img ' + path] = await tag('img', path);
  }
  await wait(1500);
  done(found);
})();
"""

ASK = """
const [base, text, done] = [...arguments];
fetch(base + '/v1/embeddings', {
  method: 'POST', body: JSON.stringify({input: text}),
  headers: {'Content-Type': 'application/json'},
}).then(async answer => done({status: answer.status, body: await answer.json()}),
        error => done({failed: String(error)}));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (
        *FLAGS,
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
        f"--host-resolver-rules=MAP {STRANGER} 127.0.0.1",
        "--no-proxy-server",
        # What a browser may forbid pages by itself must not hide what the service lets them do.
        "--disable-features=BlockInsecurePrivateNetworkRequests,LocalNetworkAccessChecks",
    ):
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=Service(DRIVER))
    found.set_script_timeout(300)
    found.set_page_load_timeout(120)
    yield found
    found.quit()


class _Page(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        page = b"<!doctype html><title>a page</title><body>a page</body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    """Port of a web server with one page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def executed(log: str) -> int:
    """Batches in the engine's log that are as large as the attacks' text."""
    sizes = re.findall(r"Prefill batch[,.] #new-seq: \d+, #new-token: (\d+)", log)
    return sum(int(size) >= SECRET_TOKENS for size in sizes)


def control(port: int) -> list[float]:
    heard = send(port, Case(fuzz.http(fuzz.body({"input": "control"}))))
    assert heard.statuses == [200]
    vector: list[float] = heard.document["data"][0]["embedding"]
    return vector


def attack(browser: Any, origin: str, base: str, file: Path) -> dict[str, Any]:
    browser.get(f"{origin}/page")
    assert browser.title == "a page"
    found: dict[str, Any] = browser.execute_async_script(ATTACKS, base, SECRET, str(file))
    return found


def readable(found: dict[str, Any]) -> list[str]:
    """Attacks that brought something to read, or that ran as a script, or opened a socket."""
    return [
        name
        for name, what in found.items()
        if (isinstance(what, dict) and (what.get("text") or what.get("status")))
        or what == "opened"
        or (what == "loaded" and name.startswith("img"))
    ]


def test_a_page_of_another_origin_reads_and_does_nothing(
    running: Running, browser: Any, page: int, tmp_path: Path
) -> None:
    home, data = running.home, running.data
    port = int(urlsplit(data["endpoint"]).port or 0)
    before = control(port)
    batches = executed(home.log("cpu-minilm"))
    file = tmp_path / "written by the engine"
    for origin, base in (
        (f"http://127.0.0.1:{page}", f"http://127.0.0.1:{port}"),
        (f"http://{STRANGER}:{page}", f"http://localhost:{port}"),
        (f"http://{STRANGER}:{page}", f"http://{STRANGER}:{port}"),  # a name bound anew
    ):
        found = attack(browser, origin, base, file)
        assert len(found) > 50  # all of it was tried
        assert readable(found) == []
    browser.get(f"http://{STRANGER}:{port}/v1/models")  # as if the page itself came from there
    assert "all-minilm" not in browser.page_source
    assert not file.exists()
    assert executed(home.log("cpu-minilm")) == batches
    assert control(port) == before
    status = home.run("status", "cpu-minilm", "--json").ok().data
    assert (status["state"], status["restarts"], status["pid"]) == ("ready", 0, data["pid"])
    # What would have been seen, had one of them got through.
    assert send(port, Case(fuzz.http(fuzz.body({"input": SECRET})))).statuses == [200]
    assert executed(home.log("cpu-minilm")) == batches + 1


def test_a_page_of_an_origin_that_the_profile_names_may_ask_and_others_may_not(
    home: Home, browser: Any, page: int
) -> None:
    origin = f"http://127.0.0.1:{page}"
    name = home.profile("paged", Path("all-minilm-l6-v2"), f"cors_origins: [{json.dumps(origin)}]")
    data = home.run("up", name, "--json").ok().data
    base = f"http://127.0.0.1:{urlsplit(data['endpoint']).port}"
    browser.get(f"{origin}/page")
    found = browser.execute_async_script(ASK, base, "control")
    assert found["status"] == 200, found
    vector = found["body"]["data"][0]["embedding"]
    assert vector == control(int(urlsplit(base).port or 0))
    browser.get(f"http://{STRANGER}:{page}/page")
    assert "failed" in browser.execute_async_script(ASK, base, "control")
