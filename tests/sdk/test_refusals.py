"""What the gateway refuses by itself is the right error of every SDK."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Gateway
from tests.sdk.talks.talk import Talk, Wanted
from tests.sdk.test_every_wire import TALKS

pytestmark = pytest.mark.parametrize("sdk", TALKS)


@pytest.fixture
def refuse(gateway: Gateway, api_key: str, sdk: str) -> Iterator[Any]:
    """The error of a call to a model, and the conversation that got it."""
    clients = []

    def ask(model: str, status: int, *, stream: bool, key: str = api_key) -> tuple[Talk, Any]:
        client = TALKS[sdk].connect(gateway.url, key)
        clients.append(client)
        talk = TALKS[sdk](client, model, Wanted())
        talk.say("Hello there.")
        with pytest.raises(talk.find_error(status)) as caught:
            talk.answer(stream=stream)
        assert talk.read_status(caught.value) == status
        assert talk.find_request_id(caught.value)
        return talk, caught.value

    yield ask
    for client in clients:
        TALKS[sdk].disconnect(client)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_an_unknown_model_is_not_found(refuse: Any, stream: bool) -> None:
    _, error = refuse("story-tellr", 404, stream=stream)
    assert "story-teller" in str(error)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_wrong_key_is_not_let_in(refuse: Any, stream: bool) -> None:
    key = f"gw_test_{'x' * 43}"
    _, error = refuse("story-teller", 401, stream=stream, key=key)
    assert key not in str(error)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_a_provider_that_limits_is_a_limit(refuse: Any, stream: bool) -> None:
    refuse("limiting/sim/429@50ms", 429, stream=stream)
