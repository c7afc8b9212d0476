"""A hub on 127.0.0.1 that accepts uploads: the requests of `huggingface_hub` that `to-hf --push` makes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class ModelHub:
    """What was uploaded: repository -> path -> contents, and the repositories that are private. token: that may write.

    lfs: files whose names end like this are sent as in Git LFS. status: of every commit, if it is not 0.
    """

    url: str = ""
    token: str = "secret"
    lfs: str = ".safetensors"
    status: int = 0
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


class _UploadHandler(BaseHTTPRequestHandler):
    hub: ModelHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""

    def do_PUT(self) -> None:
        data = self._body()
        self.hub.objects[hashlib.sha256(data).hexdigest()] = data
        self._answer({})

    def do_GET(self) -> None:
        self.hub.unknown.append(self.path)
        self._answer({"error": "no"}, 404)

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._answer({"error": "no"}, 401)
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._answer({"warnings": [], "errors": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "lfs" if p.endswith(self.hub.lfs) else "regular"} for p in files]
            return self._answer({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        if re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            return self._answer({"transfer": "basic", "objects": [self._place(o) for o in json.loads(body)["objects"]]})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        self.hub.unknown.append(path)
        return self._answer({"error": "no"}, 404)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization')}/{asked['name']}"
        exists = name in self.hub.repositories
        self.hub.repositories.setdefault(name, {})
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        self._answer({"url": f"{self.hub.url}/{name}"}, 409 if exists else 200)

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/objects/{asked['oid']}"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if self.hub.status:
            return self._answer({"error": "no"}, self.hub.status)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.repositories[name][value["path"]] = self.hub.objects[value["oid"]]
        commit = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.hub.url}/{name}/commit/{'0' * 40}"}
        return self._answer(commit)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = list[bytes]()
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, document: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """Serve a hub on 127.0.0.1 within the block."""
    hub = ModelHub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_UploadHandler,), {"hub": hub})) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
