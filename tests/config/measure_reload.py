"""Prints what reading and reloading cost: `python -m tests.config.measure_reload [models] [providers]`."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from engine.config.reload import ConfigWatch, Loader
from engine.config.settings import read_settings

PROVIDER = """provider: p{n}
format: openai-chat
base_url: https://p{n}.example.com/v1
auth: {{bearer: key-{n}}}
params: {{rename: {{max_completion_tokens: max_tokens}}, clamp: {{temperature: [0, {high}]}}}}
examples:
  - given: {{model: m, messages: [], max_completion_tokens: 5}}
    sends: {{path: /chat/completions, body: {{model: m, messages: [], max_tokens: 5}}}}
"""
MODEL = """  model-{n}:
    aliases: [vendor/model-{n}]
    capabilities: [chat, tools, vision]
    limits: {{context: 128000, output: 16384}}
    price: {{input: "0.15", output: "0.60", cached_input: "0.075"}}
    targets:
      - {{provider: p{one}, model: vendor/model-{n}}}
      - {{provider: p{other}, model: vendor/model-{n}, weight: 20}}
"""


def write_config(folder: Path, models: int, providers: int) -> None:
    (folder / "providers.d").mkdir()
    (folder / "models.d").mkdir()
    for n in range(providers):
        (folder / f"providers.d/p{n}.yaml").write_text(PROVIDER.format(n=n, high=2))
    for start in range(0, models, 500):
        rows = range(start, min(start + 500, models))
        text = "".join(MODEL.format(n=n, one=n % providers, other=(n * 7 + 1) % providers) for n in rows)
        (folder / f"models.d/m{start}.yaml").write_text("models:\n" + text)


def make_loader(folder: Path) -> Loader:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return Loader(read_settings(config=folder / "gateway.yaml", home=home), {})


def clock(name: str, began: float, began_cpu: float) -> None:
    wall_ms, cpu_ms = 1000 * (time.perf_counter() - began), 1000 * (time.process_time() - began_cpu)
    print(f"{name:44} {wall_ms:8.1f} ms wall  {cpu_ms:8.1f} ms CPU")


def measure(folder: Path) -> None:
    for name in ("cold (every file parsed)", "warm cache, new process's loader"):
        began, cpu = time.perf_counter(), time.process_time()
        loader = make_loader(folder)
        snapshot = loader.prepare(loader.read(), run_examples=True)
        clock(name, began, cpu)
    worker = make_loader(folder)
    began, cpu = time.perf_counter(), time.process_time()
    taken = worker.prepare(loader.read(), run_examples=False)
    clock("worker: prepare a manifest from the cache", began, cpu)
    for round in range(5):
        text = PROVIDER.format(n=3, high=1 + round / 10)
        (folder / "providers.d/p3.yaml").write_text(text)
        began, cpu = time.perf_counter(), time.process_time()
        manifest = loader.read()
        snapshot = loader.prepare(manifest, snapshot, run_examples=True)
        clock("one provider changed: read and prepare", began, cpu)
        began, cpu = time.perf_counter(), time.process_time()
        taken = worker.prepare(manifest, taken, run_examples=False)
        clock("  the same in a worker", began, cpu)
    watch = ConfigWatch(loader)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(20):
        watch.changed()
    clock("20 polls, one with the content", began, cpu)
    began, cpu = time.perf_counter(), time.process_time()
    loader.read()
    clock("read, nothing changed", began, cpu)
    print("RSS", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB")


if __name__ == "__main__":
    sizes = [int(text) for text in sys.argv[1:]] or [5000, 50]
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / "gateway.yaml").write_text("simulator: {enabled: auto}\n")
        write_config(root, sizes[0], sizes[1])
        measure(root)
