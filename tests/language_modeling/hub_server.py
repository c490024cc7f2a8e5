"""As much of the Hugging Face hub as streaming or fetching a repository's files needs, over a local folder."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


@contextmanager
def hub_server(root: Path, repo: str, revision: str) -> Iterator[tuple[str, list[str]]]:
    """Serve ``root`` as the data set ``repo`` at ``revision``: gives the server's address, and the paths asked for."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            requests.append(path)
            kind, _, name = path.partition(f"/{repo}/")[2].partition("/")
            file = root / name.removeprefix(revision).strip("/")
            if path.startswith("/api/datasets/") and kind == "revision":
                self._answer(200, json.dumps({"id": repo, "sha": revision, "siblings": []}).encode())
            elif path.startswith("/api/datasets/") and kind == "tree" and file.is_dir():
                wanted = file.rglob("*") if "recursive=true" in self.path else file.iterdir()
                self._answer(200, json.dumps([_entry(root, path) for path in sorted(wanted)]).encode())
            elif path.startswith("/datasets/") and kind == "resolve" and file.is_file():
                self._send_file(file.read_bytes())
            else:
                self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

        def _send_file(self, content: bytes) -> None:
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": revision,
                "Accept-Ranges": "bytes",
            }
            wanted = self.headers.get("Range")
            if not wanted:
                return self._answer(200, content, headers)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1, len(content)) if last else len(content)
            span = f"bytes {first}-{end - 1}/{len(content)}"
            return self._answer(206, content[int(first) : end], {**headers, "Content-Range": span})

        def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def _entry(root: Path, path: Path) -> dict[str, object]:
    kind = "directory" if path.is_dir() else "file"
    return {"type": kind, "oid": "0" * 40, "size": path.stat().st_size, "path": path.relative_to(root).as_posix()}
