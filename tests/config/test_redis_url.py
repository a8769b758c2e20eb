import pytest

from engine.errors import ConfigRefused
from tests.config.conftest import Folder


@pytest.mark.parametrize(
    "url", ["redis://:pw@host:6380/1", "rediss://host", "unix:///run/redis.sock", "none"]
)
def test_a_redis_is_named_by_its_url(folder: Folder, url: str) -> None:
    snapshot = folder.load({"gateway.yaml": f"redis: '{url}'"})
    assert snapshot.settings.redis.url.reveal() == url and "pw" not in repr(snapshot.settings)


def test_what_is_no_url_of_a_redis_is_refused_with_its_line(folder: Folder) -> None:
    with pytest.raises(ConfigRefused) as refused:
        folder.load({"gateway.yaml": "redis: {url: http://host:hidden@x}"})
    text = str(refused.value)
    assert (
        text.startswith("gateway.yaml:1:9 redis.url: must be `none` or begin with") and "hidden" not in text
    )
