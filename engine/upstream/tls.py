"""How upstream TLS is verified: the system's roots and the bundled ones, host names checked, HTTP/1.1."""

import ssl

import certifi


def make_tls_context() -> ssl.SSLContext:
    """Return the context of all direct connections. Reads files: build it once per process."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
