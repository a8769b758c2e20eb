"""What examples are compared with is what a call sends: both are computed for every example that is shipped."""

from typing import Any

import orjson
import pytest

from engine.call import Call
from engine.config.examples import tell_operation
from engine.config.files import find_library
from engine.config.rehearsal import Asked, show_sent
from engine.config.snapshot import Snapshot, Target
from engine.config.yamltree import parse_document
from engine.routing.commands import render_request
from engine.wire.doors import open_side_door
from engine.wire.requests import read_request
from tests.config.conftest import Folder

EXAMPLES = [
    (file.stem, number, example)
    for file in sorted((find_library() / "providers.d").glob("*.yaml"))
    for number, example in enumerate(parse_document(file.read_bytes()).tree.get("examples", ()))
    if "given" in example and not example.keys() & {"continues", "traits", "stream", "model"}
]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return Folder(tmp_path_factory.mktemp("shipped")).load({})


@pytest.mark.parametrize(
    ("name", "example"), [each[::2] for each in EXAMPLES], ids=[f"{name}-{at}" for name, at, _ in EXAMPLES]
)
def test_a_call_sends_what_the_example_of_it_shows(
    name: str, example: dict[str, Any], snapshot: Snapshot
) -> None:
    provider, given = snapshot.providers[name], example["given"]
    operation = example.get("operation") or tell_operation(given)
    surface = snapshot.formats[example["as"]] if "as" in example else snapshot.surfaces[operation]
    call = Call("c", "r", open_side_door(surface, "test"), 0.0, 0.0, snapshot, body=orjson.dumps(given))
    read_request(call)
    target = Target(provider, given["model"], 1, False, None, None, None)
    shown = show_sent(target, Asked(surface.operation, surface, given, call.stream))
    assert shown.body == render_request(call, provider, given["model"])["body"]
