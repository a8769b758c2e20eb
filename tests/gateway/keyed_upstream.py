"""A provider whose answer depends on the key that it is sent, which no simulator's model name can say."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Saying:
    """One answer. `{sent}` in the body becomes what was sent in the headers that carry secrets."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def word_answer(model: str, key: str) -> str:
    message = {"role": "assistant", "content": f"said to {key[-1:]}"}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
    )


def word_error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "t", "code": "c", "param": None}})


class KeyedUpstream:
    def __init__(self, rules: dict[str, Saying]) -> None:
        self.rules = rules
        self.keys: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                sent = self.headers.get("authorization", "")
                key = sent.removeprefix("Bearer ")
                upstream.keys.append(key)
                upstream.bodies.append(body)
                saying = upstream.rules.get(key, Saying())
                quoted = f"{sent} {self.headers.get('x-extra', '')}"
                text = saying.body.replace("{sent}", quoted) or word_answer(body.get("model", ""), key)
                self.send_response(saying.status)
                named = {"content-type": "application/json"} | saying.headers
                for name, value in named.items():
                    self.send_header(name, value)
                payload = text.encode()
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *facts: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator["KeyedUpstream"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
