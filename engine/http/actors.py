"""Who a request is by, for the audit log."""

from typing import Any

from engine.call import Caller
from engine.storage.audit import Actor


def name_actor(caller: Caller, scope: Any) -> Actor:
    client = scope.get("client")
    agent = dict(scope["headers"]).get(b"user-agent", b"").decode("latin-1")
    return Actor(caller.user_id, caller.key_id, client[0] if client else "", agent)
