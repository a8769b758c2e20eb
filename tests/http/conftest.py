"""The embedded server of the storage room's tests, for gateways that share a database."""

from tests.storage.conftest import cluster, server_url

__all__ = ["cluster", "server_url"]
