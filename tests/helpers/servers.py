"""Servers on loopback that the tests of sharing read from: static files, an object store, a data set hub."""

from __future__ import annotations

import json
import re
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Seen:
    """What a server was asked: paths of all requests, bytes of all bodies that it sent."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    bytes: int = 0


class Plain(SimpleHTTPRequestHandler):
    """Python's own static server: whole files only."""

    seen: Seen

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.seen.paths.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        data = source.read()
        self.seen.bytes += len(data)
        outputfile.write(data)


class Ranged(Plain):
    """A static server that sends parts, as every web server but Python's own does."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file():
            return super().do_GET()
        self.seen.paths.append(f"{self.path} {wanted}")
        data = path.read_bytes()
        start, stop = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
        first = len(data) - min(int(stop), len(data)) if start == "" else int(start)
        last = len(data) - 1 if start == "" or stop == "" else min(int(stop), len(data) - 1)
        body = data[first : last + 1]
        self.seen.bytes += len(body)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None


class Broken(Plain):
    """Answers by the first part of the path: /403/, /500/, /cut/ (half a body),
    /slow/ (none at all for a while).
    """

    def do_GET(self):
        kind = self.path.split("/")[1]
        if kind in ("401", "403", "500"):
            self.send_error(int(kind))
        elif kind == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{" * 500)
            self.close_connection = True
        elif kind == "slow":
            time.sleep(3)
        else:
            self.send_error(404)


def refusing(code: str) -> type[Plain]:
    """An object store that refuses everything for one reason."""

    class Refusing(Plain):
        def do_GET(self):
            body = f"<Error><Code>{code}</Code><Message>the reason.</Message></Error>".encode()
            self.send_response(404 if code in ("NoSuchBucket", "ContainerNotFound") else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Refusing


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as one commit of small files and reading them back need."""

    seen: Seen
    files: dict[str, bytes]

    def log_message(self, *_):
        pass

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.seen.bytes += len(body)
            self.wfile.write(body)

    def do_GET(self):
        self.seen.paths.append(f"{self.command} {self.path} {self.headers.get('Authorization', '')}".strip())
        match = re.fullmatch(r"/datasets/me/neurons/resolve/main/(.+)", self.path)
        if not match or match[1] not in self.files:
            return self._send(b"{}", 404, X_Error_Code="EntryNotFound")
        data = self.files[match[1]]
        extra = {"ETag": '"1"', "X_Repo_Commit": "c" * 40}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._send(data, **extra)
        first = len(data) - min(int(wanted[2]), len(data)) if wanted[1] == "" else int(wanted[1])
        last = len(data) - 1 if wanted[1] == "" else min(int(wanted[2] or len(data) - 1), len(data) - 1)
        self._send(data[first : last + 1], 206, Content_Range=f"bytes {first}-{last}/{len(data)}", **extra)
        return None

    do_HEAD = do_GET

    def do_POST(self):
        self.seen.paths.append(f"POST {self.path} {self.headers.get('Authorization', '')}".strip())
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            return self._json(
                {"url": f"{self.seen.url}/datasets/me/neurons", "id": "me/neurons", "name": "me/neurons"}
            )
        if self.path.endswith("/validate-yaml"):
            return self._json({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]
            return self._json({"files": modes})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = b64decode(line["value"]["content"])
            return self._json(
                {"commitOid": "c" * 40, "commitUrl": f"{self.seen.url}/datasets/me/neurons/commit/c"}
            )
        return self._send(b"{}", 404)

    def _json(self, value) -> None:
        self._send(json.dumps(value).encode(), Content_Type="application/json")


class Models(BaseHTTPRequestHandler):
    """As much of the hub's API as fetching files of the model someone/tiny needs."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"
    seen: Seen
    files: dict[str, bytes]

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.seen.paths.append(f"{self.command} {self.path}")
        about = {
            "id": "someone/tiny",
            "sha": self.COMMIT,
            "siblings": [{"rfilename": name} for name in self.files],
        }
        listed = [
            {"type": "file", "path": name, "size": len(raw), "oid": "1"} for name, raw in self.files.items()
        ]
        name = self.path.partition("/resolve/")[2].partition("/")[2]
        if self.path.startswith("/api/models/someone/tiny/tree/"):
            body, status = json.dumps(listed).encode(), 200
        elif self.path.startswith("/api/models/someone/tiny"):
            body, status = json.dumps(about).encode(), 200
        else:
            body, status = self.files.get(name, b""), 200 if name in self.files else 404
        self.send_response(status)
        extra = {} if status == 200 else {"X-Error-Code": "EntryNotFound"}
        for key, value in {
            "ETag": '"1"',
            "X-Repo-Commit": self.COMMIT,
            "Content-Length": len(body),
            **extra,
        }.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.seen.bytes += len(body)
            self.wfile.write(body)

    do_HEAD = do_GET


@contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], folder: Path | None = None, files: dict[str, bytes] | None = None
) -> Iterator[Seen]:
    """A server on a free port of loopback while the block lasts."""
    seen = Seen()
    own = type("Handler", (handler,), {"seen": seen, "files": files or {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(own, directory=folder) if folder else own)
    server.daemon_threads = True
    seen.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
