"""Results of tools in the order of the calls that they answer, for wires that match the two by their order."""

from typing import Any


def order_results(turns: Any) -> list[dict[str, Any]]:
    """Turns in two roles; results stand as the calls of the answer before them do, unknown ones last."""
    ordered = list(turns or ())
    for place, turn in enumerate(ordered[1:], 1):
        calls = [p.get("id") for p in ordered[place - 1]["parts"] if p.get("type") == "tool_call"]
        if len(calls) > 1:
            ordered[place] = {**turn, "parts": _order(turn["parts"], calls)}
    return ordered


def _order(parts: list[dict[str, Any]], calls: list[Any]) -> list[dict[str, Any]]:
    places = {id: place for place, id in reversed(list(enumerate(calls)))}
    results = [part for part in parts if part.get("type") == "tool_result"]
    others = [part for part in parts if part.get("type") != "tool_result"]
    return [*sorted(results, key=lambda part: places.get(part.get("id"), len(calls))), *others]
