"""Which thing of a name is in force, and what `extends` makes of it."""

from pathlib import Path

from engine.config.files import find_library
from engine.config.reload import Loader
from engine.config.settings import read_settings
from tests.config.conftest import Folder, provider

MODEL = 'models:\n  {name}: {{price: {{input: "{price}"}}, targets: [{{provider: alpha, model: x}}]}}\n'


def test_a_users_thing_replaces_the_shipped_one_of_its_name_whole(folder: Folder) -> None:
    snapshot = folder.load({"providers.d/mine.yaml": provider("openai")})
    assert snapshot.providers["openai"].base_url == "https://openai.example.com/v1"
    assert snapshot.providers["openai"].models_listing is None
    assert "groq" in snapshot.providers


def test_extends_of_the_same_name_means_the_shipped_thing(folder: Folder) -> None:
    snapshot = folder.load({
        "providers.d/o.yaml": "provider: openai\nextends: openai\nauth: {bearer: k}\nparams: {drop: [user]}\n",
        "policies.d/d.yaml": "policy: default\nextends: default\ntimeouts: {idle_s: 7}\n",
        "models.d/m.yaml": "models:\n  gpt-4o: {extends: gpt-4o, strategy: cheapest}\n",
    })  # fmt: skip
    openai = snapshot.providers["openai"]
    assert (openai.base_url, openai.configured) == ("https://api.openai.com/v1", True)
    assert openai.params.drop == {"user"}
    assert snapshot.default_policy.timeouts.idle_s == 7
    assert snapshot.default_policy.breaker.failures == 5
    assert snapshot.names["openai/gpt-4o"].strategy == "cheapest"


def test_a_thing_over_another_keeps_its_own_name_and_no_aliases_or_examples(folder: Folder) -> None:
    snapshot = folder.load({
        "providers.d/o.yaml": "provider: openai-eu\nextends: openai\nbase_url: https://eu.example.com\n",
        "models.d/m.yaml": "models:\n  mine: {extends: gpt-4o, aliases: [my-4o]}\n  other: {extends: mine}\n",
    })  # fmt: skip
    assert snapshot.providers["openai-eu"].models_listing == snapshot.providers["openai"].models_listing
    assert snapshot.models["mine"].aliases == ("my-4o",)
    assert snapshot.models["other"].aliases == ()
    assert snapshot.names["openai/gpt-4o"].name == "gpt-4o"


def test_null_takes_an_inherited_key_away(folder: Folder) -> None:
    files = {
        "providers.d/o.yaml": "provider: mine\nextends: groq\nparams: {clamp: null}\nauth: {bearer: k}\n"
    }
    params = folder.load(files).providers["mine"].params
    assert params.clamp == {}
    assert "logit_bias" in params.drop


def test_a_problem_in_an_inherited_leaf_is_told_where_it_is_written(folder: Folder) -> None:
    problems = folder.refuse({
        "providers.d/a.yaml": provider("alpha", "params: {clamp: {top_p: [1, 0]}}\n"),
        "providers.d/b.yaml": "provider: b\nextends: alpha\n",
    })  # fmt: skip
    assert problems == ["providers.d/a.yaml:5:1 params: clamp.top_p: the low end is above the high end"]


def test_a_circle_of_extends_is_told_with_every_place(folder: Folder) -> None:
    problems = folder.refuse({
        "providers.d/a.yaml": "provider: a\nextends: b\n",
        "providers.d/b.yaml": "provider: b\nextends: a\n",
    })  # fmt: skip
    assert problems[0] == (
        "providers.d/a.yaml:2:1 extends: extends itself in a circle: "
        "a (providers.d/a.yaml:1:1) -> b (providers.d/b.yaml:1:1) -> a (providers.d/a.yaml:1:1)"
    )
    assert len(problems) == 2


def test_extends_of_nothing_known_is_told_with_a_near_name(folder: Folder) -> None:
    problems = folder.refuse({"providers.d/a.yaml": "provider: a\nextends: opennai\n"})
    assert problems == ['providers.d/a.yaml:2:1 extends: no provider "opennai" (did you mean "openai"?)']
    problems = folder.refuse({"providers.d/a.yaml": "provider: a\nextends: a\n"})
    assert problems == ['providers.d/a.yaml:2:1 extends: no provider "a"']


def test_the_same_name_twice_among_the_users_files_is_a_problem_with_both_places(folder: Folder) -> None:
    problems = folder.refuse({
        "providers.d/a.yaml": provider("alpha"),
        "providers.d/b.yaml": "# another\n" + provider("alpha").lstrip(),
        "models.d/a.yaml": MODEL.format(name="m", price=1),
        "models.d/sub/b.yaml": MODEL.format(name="m", price=2),
    })  # fmt: skip
    assert problems == [
        'models.d/sub/b.yaml:2:3 model "m" is declared twice (first at models.d/a.yaml:2:3)',
        'providers.d/b.yaml:2:1 provider "alpha" is declared twice (first at providers.d/a.yaml:1:1)',
    ]


def test_without_builtin_only_formats_the_default_policy_and_the_simulator_stay(folder: Folder) -> None:
    snapshot = folder.load({
        "gateway.yaml": "include: {builtin: false}",
        "providers.d/a.yaml": "provider: alpha\nextends: openai\nauth: {bearer: k}\n",
        "models.d/a.yaml": MODEL.format(name="m", price=1),
    })  # fmt: skip
    assert set(snapshot.providers) == {"alpha", "sim"}
    assert set(snapshot.models) == {"m"}
    assert set(snapshot.policies) == {"default"}
    assert snapshot.surfaces["chat"] is snapshot.formats["openai-chat"]


def test_a_users_alias_wins_over_a_shipped_name(folder: Folder) -> None:
    text = 'models:\n  m: {aliases: [gpt-4o], price: {input: "1"}, targets: [{provider: alpha, model: x}]}\n'
    snapshot = folder.load({"providers.d/a.yaml": provider(), "models.d/m.yaml": text})
    assert snapshot.names["gpt-4o"].name == "m"
    assert snapshot.warnings[0].startswith(
        'models.d/m.yaml:2:17 aliases[0]: "gpt-4o" is also a name of model "gpt-4o"'
    )


def test_in_a_clone_the_users_folders_are_the_shipped_ones_and_are_read_once(tmp_path: Path) -> None:
    root = find_library()
    loader = Loader(read_settings(config=root / "gateway.yaml", home=tmp_path), {})
    manifest = loader.read()
    assert {entry["rank"] for entry in manifest["files"]} == {"gateway", "shipped"}
    assert "providers.d/openai.yaml" in {entry["name"] for entry in manifest["files"]}
    assert loader.prepare(manifest, run_examples=False).providers["openai"].name == "openai"


def test_a_run_in_an_empty_folder_has_the_shipped_library(tmp_path: Path) -> None:
    settings = read_settings(home=tmp_path / "home").model_copy(update={"config": None})
    loader = Loader(settings, {})
    loader.folder = tmp_path
    snapshot = loader.prepare(loader.read(), run_examples=True)
    assert snapshot.server.port == 8000
    assert "gpt-4o-mini" in snapshot.models


def test_a_file_that_names_nothing_and_unknown_keys_of_model_files_are_told(folder: Folder) -> None:
    problems = folder.refuse({
        "models.d/a.yaml": "modells: {}\n",
        "models.d/b.yaml": "models: {}\nx-anchors: {}\nversion: 2\n",
        "models.d/c.yaml": "models: [1]\n",
        "providers.d/d.yaml": "provider: [x]\n",
    })  # fmt: skip
    assert problems == [
        "models.d/a.yaml:1:1 this file names nothing; "
        "a key that names it is expected, such as provider, models or policy",
        "models.d/b.yaml:3:1 version: unknown key",
        "models.d/c.yaml:1:1 models: a mapping (name: model) is expected",
        "providers.d/d.yaml:1:1 provider: a name is expected",
    ]


def test_folders_of_the_users_own_are_read_and_a_missing_one_is_told(folder: Folder) -> None:
    files = {"gateway.yaml": "include: {folders: [conf]}", "conf/a.yaml": provider("alpha")}
    assert "alpha" in folder.load(files).providers
    problems = folder.refuse({"gateway.yaml": "include: {folders: [conf, nowhere]}"})
    assert problems == ["gateway.yaml:1:1 include.folders: no folder nowhere"]
