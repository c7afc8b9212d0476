"""A hub on 127.0.0.1: the requests of `huggingface_hub` that fetching makes, answered from memory, with faults.

Large files are served as the hub serves those in Git LFS: by a redirect to another host name, with ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE_BYTES = 16_384


def commit_id(number: int) -> str:
    """The identifier of the n-th commit of a repository."""
    return hashlib.sha1(str(number).encode()).hexdigest()


@dataclass
class ServedRequest:
    """A request and its answer. sent: bytes of the body that were written."""

    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Fault:
    """What goes wrong with requests whose path contains `path`, for the next `times` ones (-1: always).

    status, headers: answer with them. cut: close the connection after so many bytes. change: alters the content.
    whole: ignore the range. redirect: to the same path. pause: called after each piece.
    """

    path: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    change: Callable[[bytes], bytes] | None = None
    whole: bool = False
    redirect: bool = False
    pause: Callable[[], object] | None = None


@dataclass
class HubServer:
    """The state of the hub: files by repository and commit, the commit of `main`, faults, and the requests served.

    private: repositories that need the token "secret". lfs: files from this size on are in Git LFS.
    """

    port: int = 0
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    main: dict[str, str] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    requests: list[ServedRequest] = field(default_factory=list)
    lfs: int = 1000

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def publish(self, repository: str, files: dict[str, bytes]) -> str:
        """Add a commit with these files to `main`; returns its identifier."""
        versions = self.commits.setdefault(repository, {})
        commit = commit_id(len(versions))
        versions[commit], self.main[repository] = files, commit
        return commit

    def sent(self, path: str) -> int:
        """Bytes of bodies sent for requests whose path contains `path`."""
        return sum(request.sent for request in self.requests if path in request.path)

    def blob(self, path: str) -> str:
        """The address of a file of any repository in Git LFS."""
        files = [files for versions in self.commits.values() for files in versions.values()]
        return "/lfs/" + hashlib.sha256(next(f[path] for f in files if path in f)).hexdigest()

    def take_fault(self, path: str) -> Fault:
        """The fault for a request, which is then used up once."""
        for fault in self.faults:
            if fault.path in path and fault.times:
                fault.times -= 1
                return fault
        return Fault("")


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served = ServedRequest(path, {name.lower(): value for name, value in self.headers.items()})
        self.hub.requests.append(self.served)
        fault = self.hub.take_fault(path)
        if fault.status:
            return self.answer(fault.status, b"no", fault.headers)
        if fault.redirect:
            return self.answer(307, b"", {"Location": path})
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self.listing(match[1], match[2] or "main", fault)
        if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(match[1], match[2], match[3], fault)
        if match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            every = [b for versions in self.hub.commits.values() for files in versions.values() for b in files.values()]
            return self.content(next(b for b in every if hashlib.sha256(b).hexdigest() == match[1]), fault)
        return self.answer(404, b"")

    def listing(self, repository: str, revision: str, fault: Fault) -> None:
        if not (files := self.files(repository, revision)):
            return
        siblings = [self.entry(path, data) for path, data in files[1].items()]
        body = json.dumps({"id": repository, "sha": files[0], "siblings": siblings}).encode()
        self.answer(200, fault.change(body) if fault.change else body, {"Content-Type": "application/json"})

    def entry(self, path: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        entry = {"rfilename": path, "size": len(data), "blobId": blob}
        if len(data) >= self.hub.lfs:
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def resolve(self, repository: str, revision: str, path: str, fault: Fault) -> None:
        if not (files := self.files(repository, revision)):
            return None
        if path not in files[1]:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = files[1][path]
        if len(data) < self.hub.lfs:
            return self.content(data, fault)
        digest = hashlib.sha256(data).hexdigest()
        headers = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{digest}"', "X-Repo-Commit": files[0]}
        return self.answer(
            302, b"", {**headers, "Location": f"http://localhost:{self.hub.port}/lfs/{digest}?signature=1"}
        )

    def files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and files of a revision; None after answering that it cannot be read."""
        versions = self.hub.commits.get(repository)
        if repository in self.hub.private and self.headers.get("Authorization") != "Bearer secret":
            return self.answer(401, b"", {"X-Error-Message": "Invalid username or password."})
        if versions is None:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        commit = self.hub.main[repository] if revision == "main" else revision
        if commit not in versions:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return commit, versions[commit]

    def content(self, data: bytes, fault: Fault) -> None:
        data = fault.change(data) if fault.change else data
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not wanted or fault.whole:
            return self.answer(200, data, {"ETag": '"1"'}, fault)
        start = int(wanted[1])
        if start >= len(data):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return self.answer(206, data[start:], span, fault)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: Fault | None = None
    ) -> None:
        """Send an answer in pieces, up to the byte where the fault cuts it."""
        fault = fault or Fault("")
        self.served.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        end = len(body) if fault.cut is None else min(fault.cut, len(body))
        for first in range(0, end, PIECE_BYTES):
            piece = body[first : min(first + PIECE_BYTES, end)]
            self.served.sent += len(piece)  # before the client can see the piece and the test can look
            try:
                self.wfile.write(piece)
            except OSError:  # the client has gone
                self.close_connection = True
                return
            if fault.pause:
                fault.pause()
        if end < len(body):
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report errors of the server, but no connections that the client has closed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve a hub on 127.0.0.1 within the block."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.port = server.server_address[1]
        thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
