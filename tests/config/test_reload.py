"""Reading, preparing and swapping: what a reload reuses, refuses and notices."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config.files import CACHE_FORM, find_library
from engine.config.reload import ConfigWatch, Loader, Runtime
from engine.config.settings import read_settings
from engine.errors import ConfigRefused
from tests.config.conftest import Folder, provider

MODELS = """
    models:
      m: {price: {input: "1"}, targets: [{provider: alpha, model: x}]}
      n: {price: {input: "1"}, targets: [{provider: beta, model: x}]}
    """


@pytest.fixture
def ready(folder: Folder) -> Folder:
    folder.write({
        "gateway.yaml": "",
        "providers.d/a.yaml": provider("alpha"),
        "providers.d/b.yaml": provider("beta"),
        "models.d/m.yaml": MODELS,
    })  # fmt: skip
    return folder


def test_the_same_content_is_no_new_snapshot(ready: Folder) -> None:
    loader = ready.loader()
    first = loader.prepare(loader.read(), run_examples=True)
    (ready.path / "providers.d/a.yaml").touch()
    assert loader.prepare(loader.read(), first, run_examples=True) is first


def test_what_did_not_change_is_taken_over(ready: Folder) -> None:
    loader = ready.loader()
    first = loader.prepare(loader.read(), run_examples=True)
    ready.write({"providers.d/a.yaml": provider("alpha", "passthrough: true")})
    second = loader.prepare(loader.read(), first, run_examples=True)
    assert second.version != first.version
    assert second.providers["alpha"] is not first.providers["alpha"]
    assert second.models["m"].targets[0].provider is second.providers["alpha"]
    assert second.providers["beta"] is first.providers["beta"]
    assert second.models["n"] is first.models["n"]
    assert second.formats["openai-chat"] is first.formats["openai-chat"]


def test_a_refused_configuration_changes_nothing_and_the_next_good_one_is_taken(ready: Folder) -> None:
    loader = ready.loader()
    runtime = Runtime(loader.prepare(loader.read(), run_examples=True))
    first = runtime.snapshot
    ready.write({"providers.d/a.yaml": "provider: alpha\nnonsense"})
    with pytest.raises(ConfigRefused):
        runtime.swap(loader.prepare(loader.read(), runtime.snapshot, run_examples=True))
    assert runtime.snapshot is first
    ready.write({"providers.d/a.yaml": provider("alpha", "passthrough: true")})
    runtime.swap(loader.prepare(loader.read(), runtime.snapshot, run_examples=True))
    assert runtime.snapshot.providers["alpha"].passthrough
    assert runtime.snapshot.models["n"] is first.models["n"]


def test_a_manifest_is_json_without_secrets_and_another_process_makes_the_same_of_it(ready: Folder) -> None:
    ready.environ = {"KEY": "sk-hidden"}
    ready.write({"providers.d/a.yaml": provider("alpha").replace("key-of-alpha", '"${KEY}"')})
    supervisor = ready.loader()
    manifest = supervisor.read()
    snapshot = supervisor.prepare(manifest, run_examples=True)
    text = json.dumps(manifest)
    assert "sk-hidden" not in text
    worker = ready.loader().prepare(json.loads(text), run_examples=False)
    assert worker.version == snapshot.version
    assert worker.providers["alpha"].auth.credentials[0].secret.reveal() == "sk-hidden"
    cached = b"".join(file.read_bytes() for file in (ready.path / "home/cache").iterdir())
    assert b"sk-hidden" not in cached and b"${KEY}" in cached


def test_a_worker_parses_nothing_that_the_supervisor_parsed(ready: Folder) -> None:
    supervisor = ready.loader()
    manifest = supervisor.read()
    for entry in manifest["files"]:
        if entry["rank"] == "user":
            Path(entry["path"]).unlink()
    snapshot = ready.loader().prepare(manifest, run_examples=False)
    assert set(snapshot.models) >= {"m", "n"}


def test_a_worker_compiles_nothing_that_the_supervisor_compiled(ready: Folder) -> None:
    ready.write(
        {"providers.d/own.yaml": "format: own\nextends: openai-chat\nstream_flag: {stream: yes please}\n"}
    )
    supervisor = ready.loader()
    manifest = supervisor.read()
    supervisor.prepare(manifest, run_examples=True)
    entries = {file.name: file.stat().st_ino for file in (ready.path / "home/cache").glob("*.code")}
    ready.loader().prepare(manifest, run_examples=False)
    assert entries == {file.name: file.stat().st_ino for file in (ready.path / "home/cache").glob("*.code")}
    assert len(entries) >= len(list((find_library() / "providers.d/_formats").glob("*.yaml")))


def test_a_damaged_cache_is_parsed_and_compiled_again(ready: Folder) -> None:
    ready.load()
    entries = list((ready.path / "home/cache").iterdir())
    assert {file.suffix for file in entries} == {".code", f".{CACHE_FORM}"}
    for file in entries:
        file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    assert "m" in ready.load().models


def test_a_manifest_whose_file_is_gone_from_cache_and_changed_on_disk_is_refused(ready: Folder) -> None:
    manifest = ready.loader().read()
    for file in (ready.path / "home/cache").iterdir():
        file.unlink()
    ready.write({"providers.d/a.yaml": provider("alpha", "passthrough: true")})
    with pytest.raises(ConfigRefused, match=r"providers.d/a.yaml:1:1 changed while it was being loaded"):
        ready.loader().prepare(manifest, run_examples=False)


def test_without_a_home_nothing_is_written(ready: Folder) -> None:
    loader = Loader(read_settings(config=ready.path / "gateway.yaml", home=ready.path / "absent"), {})
    loader.prepare(loader.read(), run_examples=True)
    assert not (ready.path / "absent").exists()


def test_the_revision_covers_values_and_files_that_references_name(ready: Folder) -> None:
    key = ready.path / "key"
    key.write_text("one")
    ready.write({"providers.d/a.yaml": provider("alpha").replace("key-of-alpha", '["${file:key}", "${K}"]')})
    versions = [ready.load().version]
    key.write_text("two")
    versions.append(ready.load().version)
    ready.environ = {"K": "v"}
    versions.append(ready.load().version)
    assert len(set(versions)) == 3
    assert ready.load().version == versions[-1]
    assert [c.secret.reveal() for c in ready.load().providers["alpha"].auth.credentials] == ["two", "v"]


def test_a_changed_secret_file_replaces_the_credential_in_a_running_loader(ready: Folder) -> None:
    key = ready.path / "key"
    key.write_text("one")
    ready.write({"providers.d/a.yaml": provider("alpha").replace("key-of-alpha", '"${file:key}"')})
    loader = ready.loader()
    first = loader.prepare(loader.read(), run_examples=True)
    watch = ConfigWatch(loader)
    assert not watch.changed()
    key.write_text("rotated")
    assert watch.changed()
    second = loader.prepare(loader.read(), first, run_examples=True)
    assert second.providers["alpha"].auth.credentials[0].secret.reveal() == "rotated"
    assert not watch.changed()


def test_server_database_and_redis_keep_their_value_until_a_restart(ready: Folder) -> None:
    ready.write({"gateway.yaml": "server: {port: 8001}\nredis: none"})
    loader = ready.loader()
    first = loader.prepare(loader.read(), run_examples=True)
    ready.write(
        {"gateway.yaml": "server: {port: 8002}\nredis: redis://elsewhere\ntelemetry: {log_level: error}"}
    )
    manifest = loader.read()
    second = loader.prepare(manifest, first, run_examples=True)
    assert second.server.port == second.settings.server.port == 8001
    assert second.settings.redis.url.reveal() == "none"
    assert second.settings.telemetry.log_level == "error"
    assert [warning.split(" ", 1)[1] for warning in second.warnings] == [
        "server: has changed and needs a restart; the old value stays",
        "redis: has changed and needs a restart; the old value stays",
    ]
    born_later = ready.loader().prepare(manifest, run_examples=False)
    assert born_later.server.port == 8001


def test_a_command_line_goes_over_the_file(ready: Folder) -> None:
    ready.write({"gateway.yaml": "server: {port: 8001, workers: 3}"})
    settings = read_settings(config=ready.path / "gateway.yaml", home=ready.path / "home")
    loader = Loader(settings, {}, {"server": {"port": 9001}})
    server = loader.prepare(loader.read(), run_examples=True).server
    assert (server.port, server.workers) == (9001, 3)


@pytest.mark.parametrize("change", ["write", "new", "delete", "rename", "gateway", "new folder", "format"])
def test_the_watch_notices(change: str, ready: Folder) -> None:
    loader = ready.loader()
    loader.read()
    watch = ConfigWatch(loader)
    assert not watch.changed()
    file = ready.path / "providers.d/a.yaml"
    changes: dict[str, Callable[[], object]] = {
        "write": lambda: file.write_text("provider: other\n"),
        "new": lambda: ready.write({"models.d/new.yaml": "models: {}"}),
        "delete": file.unlink,
        "rename": lambda: file.rename(file.with_name("z.yaml")),
        "gateway": lambda: ready.write({"gateway.yaml": "# changed"}),
        "new folder": lambda: ready.write({"policies.d/p.yaml": "policy: p"}),
        "format": lambda: ready.write({"providers.d/_formats/f.yaml": "format: f"}),
    }
    changes[change]()
    assert watch.changed()
    loader.read()
    assert not watch.changed()


def test_the_watch_notices_a_change_that_stat_hides(ready: Folder) -> None:
    loader = ready.loader()
    loader.read()
    file = ready.path / "providers.d/a.yaml"
    before = file.stat()
    file.write_text(file.read_text().replace("alpha.example", "omega.example"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    watch = ConfigWatch(loader)
    assert any(watch.changed() for _ in range(ConfigWatch.LOOK_INSIDE_EVERY))


def test_a_mounted_config_map_is_read_once_and_its_swap_is_noticed(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "etc")
    for version, name in (("..1", "alpha"), ("..2", "alpha\npassthrough: true")):
        folder.write(
            {f"providers.d/{version}/a.yaml": provider(name.split("\n")[0], "\n".join(name.split("\n")[1:]))}
        )
    mounted = folder.path / "providers.d"
    (mounted / "..data").symlink_to("..1")
    (mounted / "a.yaml").symlink_to("..data/a.yaml")
    folder.write({"gateway.yaml": ""})
    loader = folder.loader()
    first = loader.prepare(loader.read(), run_examples=True)
    assert not first.providers["alpha"].passthrough
    watch = ConfigWatch(loader)
    assert not watch.changed()
    (mounted / "..tmp").symlink_to("..2")
    (mounted / "..tmp").rename(mounted / "..data")
    assert watch.changed()
    assert loader.prepare(loader.read(), first, run_examples=True).providers["alpha"].passthrough


def test_an_explicit_gateway_yaml_that_is_not_there_is_refused(tmp_path: Path) -> None:
    loader = Loader(read_settings(config=tmp_path / "gateway.yaml", home=tmp_path), {})
    with pytest.raises(ConfigRefused, match=r"gateway.yaml:1:1 cannot be read: No such file"):
        loader.prepare(loader.read(), run_examples=True)


def test_many_reloads_leave_a_bounded_cache(ready: Folder) -> None:
    loader = ready.loader()
    snapshot = None
    for round in range(40):
        ready.write(
            {"providers.d/a.yaml": provider("alpha", f"params: {{clamp: {{top_k: [0, {round + 1}]}}}}")}
        )
        snapshot = loader.prepare(loader.read(), snapshot, run_examples=True)
        loader._cache.prune({entry["sha256"] for entry in loader._files}, keep=10)
    left = list((ready.path / "home/cache").glob(f"*.{CACHE_FORM}"))
    assert len(left) <= 10 + len(loader._files)
    assert ready.loader().prepare(loader.read(), run_examples=False).version == snapshot.version  # type: ignore[union-attr]
