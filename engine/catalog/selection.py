"""The hand-kept selection: which models are shipped, who serves them under which name, and what the price
list cannot know.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from engine.config.describe import describe_errors
from engine.config.schema import ModelName
from engine.config.schema_base import Count, Name, Strict, described
from engine.config.schema_price import PriceEntry
from engine.config.yamltree import Document, format_path, parse_document
from engine.errors import ConfigRefused, Problem


def _spell_out(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class ChosenTarget(Strict):
    model: ModelName = described("the provider's own name for the model")
    listed: str | None = described(
        "the row of the price list; default: as the provider's rows are named", None
    )
    as_model: bool = described("its price is the model's", False)
    price: PriceEntry | None = described("a price that the list does not have", None)
    traits: dict[str, Any] = described("as in models.d", {})


class ChosenModel(Strict):
    aliases: tuple[ModelName, ...] = described("other names", ())
    targets: dict[Name, Annotated[ChosenTarget, BeforeValidator(_spell_out)]] = described(
        "who serves it, in order"
    )
    listed: str | None = described("the row that describes the model; default: its first target's", None)
    can: tuple[str, ...] = described("capabilities that the row does not tell", ())
    cannot: tuple[str, ...] = described("capabilities that the row tells wrongly", ())
    context: Count | None = described("instead of the row's", None)
    output: Count | None = described("instead of the row's", None)
    prefill: bool | None = described("instead of the row's", None)
    free: bool = described("it costs nothing", False)
    searches_by_call: bool = described("searches of the web are paid once for a call, not each", False)
    strategy: str | None = described("as in models.d", None)
    traits: dict[str, Any] = described("as in models.d", {})


class ChosenFile(Strict):
    """One file of the selection becomes one file of models.d."""

    owned_by: str | None = described("who made these models", None)
    models: dict[ModelName, ChosenModel] = described("models by name")


class PricedProviders(Strict):
    """How the list names each provider's rows: patterns with `{model}`. None: it resells at the maker's price."""

    providers: dict[Name, tuple[str, ...]] = described("provider -> its patterns, in order")


PROVIDERS_FILE = "providers.yaml"


def read_selection(folder: Path) -> tuple[PricedProviders, dict[str, ChosenFile]]:
    """The providers, and every other file by its name; raises ConfigRefused with every problem."""
    problems: list[Problem] = []
    files = sorted(path for path in folder.glob("*.yaml") if path.name != PROVIDERS_FILE)
    providers = _read(folder / PROVIDERS_FILE, PricedProviders, problems)
    chosen = {path.stem: _read(path, ChosenFile, problems) for path in files}
    if problems:
        raise ConfigRefused(problems)
    return providers, chosen


def read_known_providers(folder: Path) -> frozenset[str]:
    """The names of the providers that have a file."""
    trees = (parse_document(path.read_bytes()).tree for path in folder.glob("*.yaml"))
    return frozenset(str(tree["provider"]) for tree in trees if "provider" in tree)


def _read(path: Path, schema: type[Strict], problems: list[Problem]) -> Any:
    document = parse_document(path.read_bytes())
    problems += [Problem(path.name, *found) for found in document.problems]
    try:
        return schema.model_validate(document.tree)
    except ValidationError as error:
        problems += _place(path, document, describe_errors(error, schema, document.tree))
        return None


def _place(
    path: Path, document: Document, found: Iterable[tuple[tuple[str | int, ...], str]]
) -> Iterable[Problem]:
    for where, message in found:
        line, column, _ = document.find_mark(where)
        yield Problem(path.name, line, column, format_path(where), message)
