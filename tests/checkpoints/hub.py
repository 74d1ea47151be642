"""A model hub on loopback: as much of the Hugging Face and ModelScope APIs as downloads use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Hub:
    """What the server holds, and what it is to do wrong."""

    repos: dict[str, dict[str, Path]] = field(default_factory=dict)
    """ORG/NAME -> revision -> folder. The first revision is the default branch."""
    gated: set[str] = field(default_factory=set)
    status: int | None = None
    """Answer everything with this HTTP status."""
    page: bytes | None = None
    """Answer everything with this and status 200, as a login or a proxy does."""
    cut: dict[str, int] = field(default_factory=dict)
    """File name -> bytes after which the connection breaks, once."""
    always_cut: bool = False
    """It breaks there every time."""
    spoilt: set[str] = field(default_factory=set)
    """File names whose last byte is another than was promised."""
    moved: set[str] = field(default_factory=set)
    """File names that come with another commit than the one asked for."""
    without_etag: set[str] = field(default_factory=set)
    stall: dict[str, int] = field(default_factory=dict)
    """File name -> bytes after which sending waits for `go_on`."""
    stalled: threading.Event = field(default_factory=threading.Event)
    """Set while a sending waits."""
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range header) of every request."""
    endpoint: str = ""

    def folder(self, repo: str, revision: str) -> tuple[str, Path] | None:
        """(commit, folder) of a revision, which may be a commit itself."""
        revisions = self.repos[repo]
        aliases = {"master": "main"} if "main" in revisions else {}
        for name, folder in revisions.items():
            if revision in {name, commit(repo, name)} or aliases.get(revision) == name:
                return commit(repo, name), folder
        return None


def commit(repo: str, revision: str) -> str:
    """The commit hash that stands for a revision: 40 hex digits."""
    return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` on a free port of loopback; its `endpoint` is set meanwhile."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        return

    def _answer(self) -> None:
        # Clients that tests kill, or that give up, leave a broken connection behind.
        with contextlib.suppress(ConnectionError):
            self._respond()

    def _respond(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.hub.requests.append((self.command, url.path, self.headers.get("Range")))
        if self.hub.status is not None:
            self._json(self.hub.status, {"error": "as asked"})
        elif self.hub.page is not None:
            self._page(self.hub.page)
        elif parts[:3] == ["api", "v1", "models"] and len(parts) > 4:
            self._modelscope("/".join(parts[3:5]), parts[5:], query)
        elif parts[:2] == ["api", "models"] and len(parts) > 4:
            self._listing("/".join(parts[2:4]), parts[4], "/".join(parts[5:]))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._json(404, {"error": "no such page"})

    def _page(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # --- Hugging Face ---

    def _listing(self, repo: str, kind: str, revision: str) -> None:
        found = self._find(repo, revision)
        if found is None:
            return
        sha, folder = found
        if kind == "tree":
            entries = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _git_id(path)}
                | ({"lfs": _lfs(path)} if _is_large(path) else {})
                for name, path in _files(folder)
            ]
            self._json(200, entries)
        else:
            siblings = [{"rfilename": name} for name, _ in _files(folder)]
            self._json(200, {"id": repo, "modelId": repo, "sha": sha, "siblings": siblings})

    def _file(self, repo: str, revision: str, name: str) -> None:
        found = self._find(repo, revision)
        if found is None:
            return
        sha, folder = found
        if not (folder / name).is_file():
            self._json(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
            return
        came = commit(repo, "moved") if Path(name).name in self.hub.moved else sha
        self._send(folder / name, {"X-Repo-Commit": came})

    def _find(self, repo: str, revision: str) -> tuple[str, Path] | None:
        """The revision asked for, or None after the error was sent."""
        if repo not in self.hub.repos:
            self._json(401, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        if repo in self.hub.gated:
            self._json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            return None
        found = self.hub.folder(repo, revision)
        if found is None:
            self._json(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        return found

    # --- ModelScope ---

    def _modelscope(self, repo: str, rest: list[str], query: dict[str, str]) -> None:
        known = repo in self.hub.repos
        found = self.hub.folder(repo, query.get("Revision", "master")) if known else None
        if repo in self.hub.gated:
            self._json(403, {"Code": 10010205001, "Message": "no permission", "Success": False})
        elif found is None:
            self._json(404, {"Code": 10010205001, "Message": "not found", "Success": False})
        elif rest == ["repo", "files"]:
            entries = [
                {"Path": name, "Name": path.name, "Type": "blob", "Size": path.stat().st_size}
                | {"Sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
                for name, path in _files(found[1])
            ]
            self._json(200, {"Code": 200, "Data": {"Files": entries}, "Success": True})
        elif rest == ["repo"] and (found[1] / query.get("FilePath", "")).is_file():
            self._send(found[1] / query["FilePath"], {})
        else:
            self._json(404, {"Code": 404, "Message": "not found", "Success": False})

    # --- both ---

    def _send(self, path: Path, extra: dict[str, str]) -> None:
        """A file, or the rest of it from a Range header; breaks off where `cut` says so."""
        data = path.read_bytes()
        begin = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        body = data[begin:]
        self.send_response(206 if begin else 200)
        if path.name not in self.hub.without_etag:
            self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        for key, value in extra.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if path.name in self.hub.spoilt:
            body = body[:-1] + bytes([body[-1] ^ 1])
        cut = self.hub.cut.get(path.name)
        if not self.hub.always_cut:
            self.hub.cut.pop(path.name, None)
        stall = self.hub.stall.pop(path.name, None)
        limit = stall if cut is None else cut
        self.wfile.write(body[:limit])
        if stall is not None:
            self.hub.stalled.set()
            self.hub.go_on.wait(60)
        if limit is not None:
            self.close_connection = True

    def _json(self, status: int, value: object, extra: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for key, text in (extra or {}).items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _files(folder: Path) -> list[tuple[str, Path]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path) for path in paths]


def _is_large(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _lfs(path: Path) -> dict[str, object]:
    return {"oid": _etag(path), "size": path.stat().st_size, "pointerSize": 134}


def _git_id(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def _etag(path: Path) -> str:
    """The SHA-256 of what hubs keep with git-lfs, git's id of the rest."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if _is_large(path) else _git_id(path)
