"""What a translation costs, in processor time without any I/O: `python -m tests.wire.measure_translation`.

The least of many rounds counts, because everything else on a machine only adds to it.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

import orjson

from tests.wire.pairs.answered import answer
from tests.wire.pairs.asked import DIALECTS, ask
from tests.wire.pairs.streamed import stream
from tests.wire.pairs.told import translate, write_sent

EVENTS = 200


def measure_us(run: Callable[[], Any], times: int, rounds: int = 25) -> float:
    """Microseconds of processor time of one run, in the best round."""
    run()
    gc.collect()
    gc.disable()
    least = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            run()
        least = min(least, (time.process_time() - began) / times)
    gc.enable()
    return least * 1e6


def measure_whole(surface: str, provider: str) -> float:
    """A request of four messages with two tools and its plain answer."""
    body, doc = ask(surface, "tools"), orjson.dumps(answer(provider, calls=True))

    def run() -> None:
        asked = translate(surface, provider, body)
        asked.render({})
        reader = asked.reader(b"application/json")
        reader.feed(doc)
        reader.close()

    return measure_us(run, 30)


def measure_event(surface: str, provider: str) -> float:
    """One piece of text in a stream."""
    frames = stream(provider, calls=False)
    place = next(n for n, frame in enumerate(frames) if b" rains" in frame and b"It rains" not in frame)
    asked = translate(surface, provider, ask(surface, "text", stream=True), stream=True)

    def run(count: int) -> Callable[[], None]:
        def read() -> None:
            reader = asked.reader(b"text/event-stream")
            for frame in (*frames[:place], *[frames[place]] * count):
                reader.feed(frame)

        return read

    return (measure_us(run(EVENTS), 2) - measure_us(run(0), 20)) / EVENTS


def measure_long(surface: str, provider: str) -> float:
    """A conversation of 200 messages, there only."""
    body = ask(surface, "tools")
    key = "contents" if surface == "gemini" else "input" if surface == "openai-responses" else "messages"
    body[key] = (body[key] * (200 // len(body[key]) + 1))[:200]
    return measure_us(lambda: write_sent(translate(surface, provider, body)), 3, 10)


if __name__ == "__main__":
    print(
        "| client | provider | request and answer, µs | event, µs | 200 messages, ms |\n| --- | --- | --- | --- | --- |"
    )
    for surface in DIALECTS:
        for provider in DIALECTS:
            if surface != provider:
                whole, event = measure_whole(surface, provider), measure_event(surface, provider)
                long = measure_long(surface, provider) / 1000
                print(f"| {surface} | {provider} | {whole:.0f} | {event:.1f} | {long:.1f} |", flush=True)
