"""An identity provider: publishes keys, signs tokens, and does what a provider should not do when it is told to."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "app-1"


class Issuer:
    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.published: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.status, self.location, self.delay_s, self.body = 200, "", 0.0, b""
        self.url = "http://127.0.0.1:9"
        self.name = self.url
        """What it calls itself in tokens; its address, unless told otherwise."""
        self.rotate("k1")

    @contextmanager
    def serving(self) -> Iterator["Issuer"]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self.url = self.name = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                time.sleep(issuer.delay_s)
                document: dict[str, Any] = {"keys": issuer.published}
                if self.path.endswith("openid-configuration"):
                    document = {"issuer": issuer.name, "jwks_uri": f"{issuer.url}/jwks.json"}
                body = issuer.body or json.dumps(document).encode()
                self.send_response(issuer.status)
                if issuer.location:
                    self.send_header("location", issuer.location)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Quiet."""

        return Handler

    def rotate(self, kid: str, algorithm: str = "ES256") -> None:
        """A new key, published beside nothing else."""
        self.published = []
        self.add(kid, algorithm)

    def add(self, kid: str, algorithm: str = "ES256") -> None:
        key: Any
        if algorithm == "ES256":
            key = ec.generate_private_key(ec.SECP256R1())
            document = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = rsa.generate_private_key(65537, 2048)
            document = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.keys[kid] = key
        self.published.append({**document, "kid": kid, "alg": algorithm, "use": "sig"})

    def read_public_pem(self, kid: str) -> bytes:
        pem: bytes = self.keys[kid].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def claim(self, subject: str = "sub-1", **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.name, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600}
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def sign(self, subject: str = "sub-1", kid: str = "k1", algorithm: str = "ES256", **changes: Any) -> str:
        return jwt.encode(
            self.claim(subject, **changes), self.keys[kid], algorithm=algorithm, headers={"kid": kid}
        )

    def vouch(self, email: str, subject: str = "sub-1", **changes: Any) -> str:
        """A token that says that this address was checked."""
        return self.sign(subject, email=email, email_verified=True, **changes)
