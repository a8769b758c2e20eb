import pytest

from engine.config.settings import read_environment, read_settings
from engine.errors import ConfigRefused

GOOD_KEY = "gw_live_x7Kq2mZ9vB4nT1sR8wY3cL6pD0hF5jG-aEuQ_oXiVbN"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in read_environment():
        if name.startswith("GATEWAYZ_") or name in ("DATABASE_URL", "REDIS_URL"):
            monkeypatch.delenv(name)


def test_the_home_is_a_folder_of_the_working_directory_unless_told() -> None:
    settings = read_settings()
    assert str(settings.home) == ".gatewayz"
    assert str(settings.config_path) == "gateway.yaml"
    assert settings.config is None


def test_the_environment_is_read_under_the_names_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAYZ_HOME", "/data")
    monkeypatch.setenv("GATEWAYZ_CONFIG", "/etc/gatewayz/gateway.yaml")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@h/d")
    monkeypatch.setenv("GATEWAYZ_ADMIN_KEY", GOOD_KEY)
    monkeypatch.setenv("GATEWAYZ_KEYRING", "one,two")
    settings = read_settings()
    assert (str(settings.home), str(settings.config)) == ("/data", "/etc/gatewayz/gateway.yaml")
    assert settings.database_url == "postgresql://u:p@h/d"
    assert settings.admin_key is not None and settings.admin_key.reveal() == GOOD_KEY
    assert settings.keyring is not None and settings.keyring.reveal() == "one,two"


def test_no_secret_is_in_the_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hidden@h/d")
    monkeypatch.setenv("GATEWAYZ_ADMIN_KEY", GOOD_KEY)
    assert "hidden" not in repr(read_settings())
    assert GOOD_KEY[10:] not in repr(read_settings())


@pytest.mark.parametrize(
    "key",
    [
        "short",
        "gw_live_tooshort",
        "sk_live_" + GOOD_KEY[8:],
        "gw_prod_" + GOOD_KEY[8:],
        GOOD_KEY + "x",
        "gw_live_" + "x" * 43,
        "gw_live_" + "ab" * 21 + "a",
        "gw_live_example" + GOOD_KEY[15:],
        "gw_live_1234567890abcdefghijklmnopqrstuvwxyz1234567",
    ],
)
def test_an_admin_key_that_is_short_or_a_known_example_is_refused_without_showing_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAYZ_ADMIN_KEY", key)
    with pytest.raises(ConfigRefused) as refused:
        read_settings()
    assert str(refused.value).startswith("environment GATEWAYZ_ADMIN_KEY: is ")
    assert key not in str(refused.value)


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAYZ_ADMIN_KEY", "")
    monkeypatch.setenv("DATABASE_URL", "")
    settings = read_settings()
    assert settings.admin_key is None
    assert settings.database_url is None


def test_a_dotenv_file_in_the_folder_is_not_read(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://elsewhere\n")
    monkeypatch.chdir(tmp_path)
    assert read_settings().database_url is None
