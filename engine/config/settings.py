"""What the environment says, read here and nowhere else.

`read_environment` is handed to whoever expands `${ENV}`; `read_settings` checks what the process itself needs
and raises ConfigRefused for a key that must not be used.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from engine.errors import ConfigRefused, Problem
from engine.secret import Secret

KEY_FORMAT = re.compile(r"gw_(live|test|staging|dev)_[A-Za-z0-9_-]{43}")
KEY_FORMAT_WORDS = "gw_live_, gw_test_, gw_staging_ or gw_dev_ and 43 url-safe characters"
_FEWEST_CHARACTERS = 12
"""A random key of 43 characters has fewer different ones than this in less than one of 10**12 cases."""
_EXAMPLE_WORDS = (
    "example",
    "changeme",
    "change-me",
    "replace",
    "your-key",
    "yourkey",
    "placeholder",
    "abcdefgh",
    "12345678",
)


def _as_secret(value: Any) -> Any:
    return Secret(value) if isinstance(value, str) and value else None


def _as_admin_key(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        return None
    refuse_known_key(value)
    return Secret(value)


def refuse_known_key(text: str) -> None:
    """Raise ValueError for a key that is short, not in the key format, or printed somewhere as an example."""
    if not KEY_FORMAT.fullmatch(text):
        raise ValueError(f"is not in the key format: {KEY_FORMAT_WORDS}")
    random_part = text.split("_", 2)[2]
    told = any(word in random_part.lower() for word in _EXAMPLE_WORDS)
    if told or len(set(random_part)) < _FEWEST_CHARACTERS:
        raise ValueError("is a known example, not a random key; create one with `gatewayz keys create`")


SecretSetting = Annotated[Secret | None, BeforeValidator(_as_secret)]


class Settings(BaseSettings):
    """The variables of the process. Provider keys are not here: `${NAME}` in a file asks for them."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        env_ignore_empty=True,
    )

    config: Path | None = Field(None, validation_alias="GATEWAYZ_CONFIG")
    """gateway.yaml; None means ./gateway.yaml, which need not exist."""
    home: Path = Field(Path(".gatewayz"), validation_alias="GATEWAYZ_HOME")
    database_url: str | None = Field(None, validation_alias="DATABASE_URL", repr=False)
    redis_url: str | None = Field(None, validation_alias="REDIS_URL", repr=False)
    admin_key: Annotated[Secret | None, BeforeValidator(_as_admin_key)] = Field(
        None, validation_alias="GATEWAYZ_ADMIN_KEY"
    )
    keyring: SecretSetting = Field(None, validation_alias="GATEWAYZ_KEYRING")
    simulator_url: str | None = Field(None, validation_alias="GATEWAYZ_SIMULATOR_URL")
    """Set by the supervisor for its workers; not for people."""
    log_level: str = Field(
        "info", validation_alias="GATEWAYZ_LOG_LEVEL", pattern="^(debug|info|warning|error)$"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What code passes, then the environment: no dotenv file that somebody forgot in a folder."""
        return (init_settings, env_settings)

    @property
    def config_path(self) -> Path:
        return self.config or Path("gateway.yaml")


def read_environment() -> Mapping[str, str]:
    """A copy of the environment: what `${ENV}` in a file is looked up in."""
    return dict(os.environ)  # noqa: TID251 - this is the one place


def read_settings(**given: Any) -> Settings:
    """The settings, with what a command line gave on top. Raises ConfigRefused; never shows a value."""
    try:
        return Settings(**{_variable(name): value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = [
            Problem(
                "environment", 0, 0, ".".join(str(part) for part in found["loc"]), _sentence(found["msg"])
            )
            for found in error.errors(include_input=False, include_context=False, include_url=False)
        ]
    raise ConfigRefused(problems)


def _variable(name: str) -> str:
    """A setting goes by its variable only: by name, `home` would be found in HOME."""
    return str(Settings.model_fields[name].validation_alias)


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ")
