"""pydantic's errors -> (path, sentence). No sentence ever shows a value: it may be a key."""

import re
import types
import typing
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

TreePath = tuple[str | int, ...]

_WORD = re.compile(r"'([^']*)'")


def suggest(word: str, known: Sequence[str]) -> str:
    """` (did you mean "x"?)`, or nothing."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""


def describe_errors(error: ValidationError, schema: type[BaseModel], tree: Any) -> list[tuple[TreePath, str]]:
    """Every error of one validation as a path in `tree` and a sentence."""
    found: list[dict[str, Any]] = [dict(item) for item in error.errors(include_url=False)]
    places: list[TreePath] = [item["loc"] for item in found]
    return [
        (_trim_path(item["loc"], tree, item["type"]), _say(item, schema))
        for item in found
        if item["type"] != "too_short" or not _holds_others(item["loc"], places)
    ]


def _holds_others(loc: TreePath, places: Sequence[TreePath]) -> bool:
    """Items that are wrong themselves are not counted; that there are too few of them is no news then."""
    return any(len(place) > len(loc) and place[: len(loc)] == loc for place in places)


def _say(item: dict[str, Any], schema: type[BaseModel]) -> str:
    kind, loc = item["type"], item["loc"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key{suggest(str(loc[-1]), _list_keys(schema, loc[:-1]))}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "a mapping (key: value) is expected"
    if kind in ("tuple_type", "list_type"):
        return "a list is expected"
    if kind == "too_short":
        return "must not be empty"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message.replace("Input should be", "should be").replace("Input should", "should")
    if kind == "literal_error" and isinstance(item["input"], str):
        message += suggest(item["input"], _WORD.findall(item["ctx"]["expected"]))
    return message


def _trim_path(loc: TreePath, tree: Any, kind: str) -> TreePath:
    """`loc` without the steps that pydantic adds for a union's branch or a normalised value."""
    path: list[str | int] = []
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(tree, dict) and step in tree:
            tree = tree[step]
        elif isinstance(tree, list) and isinstance(step, int) and step < len(tree):
            tree = tree[step]
        elif not (last and kind == "missing"):
            continue
        path.append(step)
    return tuple(path)


def _list_keys(schema: type[BaseModel], loc: TreePath) -> list[str]:
    """The keys that the model at `loc` takes."""
    models = [schema]
    for step in loc:
        models = [deeper for model in models for deeper in _step_into(model, step)] or models
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _step_into(model: type[BaseModel], step: str | int) -> list[type[BaseModel]]:
    field = model.model_fields.get(str(step))
    return list(_find_models(field.annotation)) if field is not None else []


def _find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _find_models(inner)
