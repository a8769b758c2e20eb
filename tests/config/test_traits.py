"""Traits: what a format declares, and who may say otherwise."""

from engine.config.snapshot import Snapshot
from tests.config.conftest import Folder, provider

FORMAT = """
    format: parrot
    operation: chat
    issuer: parrots
    traits: {colour: grey, loud: false, old: null}
    request: {model: "{{ target.model }}", colour: "{{ target.traits.colour }}", loud: "{{ target.traits.loud }}"}
    """
MODELS = """
    models:
      polly:
        traits: {colour: green}
        targets: [{provider: alpha, model: a}, {provider: alpha, model: b, traits: {colour: red}}]
      plain: {targets: [{provider: alpha, model: a}]}
    """


def traits_of(snapshot: Snapshot, model: str, index: int = 0) -> dict[str, object]:
    target = snapshot.models[model].targets[index]
    return dict(target.provider.endpoints["chat"].traits_of(target))


def write(folder: Folder, more: str = "", models: str = MODELS) -> dict[str, str]:
    owner = provider(more=more).replace("openai-chat", "parrot")
    return {
        "providers.d/_formats/parrot.yaml": FORMAT,
        "providers.d/a.yaml": owner,
        "models.d/m.yaml": models,
    }


def test_the_target_goes_over_the_model_over_the_provider_over_the_format(folder: Folder) -> None:
    snapshot = folder.load(write(folder, "traits: {colour: blue, loud: true}"))
    inherited = {"issuer": "parrots", "loud": True, "old": None}
    assert traits_of(snapshot, "plain") == {**inherited, "colour": "blue"}
    assert traits_of(snapshot, "polly") == {**inherited, "colour": "green"}
    assert traits_of(snapshot, "polly", 1) == {**inherited, "colour": "red"}


def test_a_format_without_an_issuer_is_its_own(folder: Folder) -> None:
    files = write(folder)
    files["providers.d/_formats/parrot.yaml"] = FORMAT.replace("    issuer: parrots\n", "")
    assert traits_of(folder.load(files), "plain")["issuer"] == "parrot"


def test_a_provider_names_another_issuer(folder: Folder) -> None:
    snapshot = folder.load(write(folder, "traits: {issuer: cockatoos}"))
    assert traits_of(snapshot, "plain")["issuer"] == "cockatoos"


def test_a_trait_that_no_wire_has_is_refused_with_its_place(folder: Folder) -> None:
    wrong = MODELS.replace("colour: green", "color: green").replace("colour: red", "lout: true")
    problems = folder.refuse(write(folder, "traits: {colur: blue}"))
    assert problems == [
        'providers.d/a.yaml:5:10 traits.colur: no trait "colur" on this wire (did you mean "colour"?)'
    ]
    assert folder.refuse(write(folder, models=wrong)) == [
        'models.d/m.yaml:3:14 traits.color: no trait "color" on this wire (did you mean "colour"?)',
        'models.d/m.yaml:4:81 targets[1].traits.lout: no trait "lout" on this wire (did you mean "loud"?)',
    ]


def test_examples_see_traits(folder: Folder) -> None:
    example = """
        traits: {colour: blue}
        examples:
          - given: {model: m, messages: [{role: user, content: hi}]}
            sends: {body: {model: m, colour: blue, loud: false}}
        """
    folder.load(write(folder, example))
    wrong = example.replace("colour: blue, loud", "colour: red, loud")
    assert "is 'blue'" in folder.refuse(write(folder, wrong))[0]
