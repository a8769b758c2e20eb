"""What callers may ask of a model. Each wire format is of one operation, and an endpoint of a provider serves one."""

from typing import Literal, get_args

Operation = Literal[
    "chat",
    "completions",
    "count_tokens",
    "embeddings",
    "rerank",
    "moderations",
    "images",
    "image_edits",
    "transcriptions",
    "translations",
    "speech",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
COUNTING = "count_tokens"
"""What the gateway estimates itself where no provider counts."""
WRITING: frozenset[str] = frozenset(("chat", "completions"))
"""Those whose answer a model writes token by token: it may be a stream, and its length can be estimated."""
