"""What is asked: the same requests of every system, as an OpenAI SDK sends them."""

import base64
import dataclasses
import json
import random
from typing import Any

PATH = "/v1/chat/completions"
CONNECTIONS = (1, 64)
TRANSLATED = "bench-translated"
TRANSLATORS = ("direct", "gatewayz")
_QUESTION = "What makes a gateway fast, and how would you measure it?"


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One kind of call. `chunks` is the least number of events that a whole stream has."""

    name: str
    title: str
    body: str
    stream: bool = False
    chunks: int = 0
    only: tuple[str, ...] = ()
    """The systems that it is for; none: all."""

    def plan(self, port: int, key: str, connections: int, **changes: Any) -> dict[str, Any]:
        """The plan for bench.load."""
        plan = {
            "port": port,
            "path": PATH,
            "connections": connections,
            "bodies": [self.body],
            "headers": [{"Authorization": f"Bearer {key}"}],
            "stream": self.stream,
            "chunks": self.chunks,
        }
        return plan | changes


def write_body(content: Any, **fields: Any) -> str:
    """A chat completion's body, as compact as the SDK writes it."""
    messages = [
        {"role": "system", "content": "You answer in one paragraph."},
        {"role": "user", "content": content},
    ]
    body = {"messages": messages, "model": "bench-plain", "temperature": 0.7, "max_tokens": 256, **fields}
    return json.dumps(body, separators=(",", ":"))


def make_cases() -> list[Case]:
    chance = random.Random(7)
    words = ["gateway", "latency", "token", "the", "of", "and", "measure", "provider", "stream", "cost"]
    long_text = " ".join(chance.choice(words) for _ in range(4000))[:20_000]
    image = base64.b64encode(chance.randbytes(768 * 1024)).decode()
    parts = [
        {"type": "text", "text": "What is in this picture?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    ]
    return [
        Case("plain", "plain answer", write_body(_QUESTION)),
        Case("stream", "100-chunk stream", write_body(_QUESTION, stream=True), stream=True, chunks=100),
        Case("prompt", "20 KB prompt", write_body(long_text)),
        Case("image", "1 MB image prompt", write_body(parts)),
        # The same calls for a model whose provider speaks Messages; who asks directly gets them untranslated.
        Case("told", "plain answer, translated", write_body(_QUESTION, model=TRANSLATED), only=TRANSLATORS),
        Case(
            "told-stream",
            "100-chunk stream, translated",
            write_body(_QUESTION, model=TRANSLATED, stream=True),
            stream=True,
            chunks=100,
            only=TRANSLATORS,
        ),
    ]


def make_paced_case(chunks: int) -> Case:
    """A stream of `chunks` at 50 per second, each stamped by the upstream."""
    body = write_body(_QUESTION, stream=True, model=f"bench-paced-{chunks}")
    return Case("paced", "stream at 50 chunks/s", body, stream=True, chunks=chunks)


def make_distinct_case() -> Case:
    """Every call asks for another model, with another tag."""
    return Case(
        "distinct", "distinct keys, models and tags", write_body(_QUESTION, model="bench/bench-m~~~~~~")
    )
