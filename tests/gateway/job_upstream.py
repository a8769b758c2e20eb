"""An upstream in a thread that takes requests as jobs; tests lay down what each look at a job finds."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class JobUpstream:
    """`answers`: (method, path) -> a list of (status, document or bytes); the last one stays. `{url}` is its own."""

    def __init__(self) -> None:
        upstream = self
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.seen: list[tuple[str, str, Any, dict[str, str]]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                is_form = headers.get("content-type", "").startswith("multipart/")
                said = body if is_form else json.loads(body or b"null")
                upstream.seen.append((self.command, self.path, said, headers))
                rows = upstream.answers.get((self.command, self.path), [(404, {"detail": "not here"})])
                status, doc = rows.pop(0) if len(rows) > 1 else rows[0]
                data = (
                    doc if isinstance(doc, bytes) else json.dumps(doc).replace("{url}", upstream.url).encode()
                )
                self.send_response(status)
                self.send_header(
                    "content-type", "image/png" if isinstance(doc, bytes) else "application/json"
                )
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _answer

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is told."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, method: str, path: str) -> list[Any]:
        return [body for how, where, body, _ in self.seen if (how, where) == (method, path)]
