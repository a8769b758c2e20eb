"""Turns of the canonical chat as dialects want them: joined for two roles, completed, named, without what is blank.

Pure functions over the plain dicts of canonical.py. None of them changes what it is given, except `fill_call_ids`,
which completes a chat that was just read.
"""

from typing import Any

from engine.wire.call_ids import restore_id

SYSTEM_ROLES = ("system", "developer")
NO_RESULT = "(no result)"


def take_opening(turns: Any) -> Any:
    """The parts of the system and developer turns that open the conversation; nothing when there are none."""
    parts: list[Any] = []
    for turn in turns or ():
        if turn.get("role") not in SYSTEM_ROLES:
            break
        parts.extend(turn.get("parts") or ())
    return parts or None


def join_for_two_roles(turns: Any, keeps_system: Any = False) -> list[dict[str, Any]]:
    """User and assistant in turn, as many dialects demand it.

    The opening is left out, results of tools and later system turns become the user's, neighbours of the same role
    are joined (results of tools first), empty turns vanish. Where the dialect `keeps_system`, later system turns stay:
    each waits for the end of what the user says, because such dialects take one only before an answer.
    """
    joined: list[dict[str, Any]] = []
    waiting: list[Any] = []
    opening = True
    for turn in turns or ():
        role, parts = turn.get("role"), turn.get("parts")
        opening = opening and role in SYSTEM_ROLES
        if opening or not parts:
            continue
        if keeps_system and role in SYSTEM_ROLES:
            waiting += parts
            continue
        if role == "assistant":
            waiting = _place_system(joined, waiting)
        _join(joined, {**turn, "role": "assistant" if role == "assistant" else "user"})
    _place_system(joined, waiting)
    return [_put_results_first(turn) for turn in joined]


def _join(joined: list[dict[str, Any]], turn: dict[str, Any]) -> None:
    if joined and joined[-1]["role"] == turn["role"]:
        joined[-1] = {**joined[-1], "parts": [*joined[-1]["parts"], *turn["parts"]]}
    else:
        joined.append(turn)


def _place_system(joined: list[dict[str, Any]], parts: list[Any]) -> list[Any]:
    """A system turn stands behind a user's; where none is, its text is the user's."""
    if parts:
        behind_user = bool(joined) and joined[-1]["role"] == "user"
        _join(joined, {"role": "system" if behind_user else "user", "parts": parts})
    return []


def _put_results_first(turn: dict[str, Any]) -> dict[str, Any]:
    parts = turn["parts"]
    results = [part for part in parts if part.get("type") == "tool_result"]
    if not results or len(results) == len(parts):
        return turn
    return {**turn, "parts": [*results, *(part for part in parts if part.get("type") != "tool_result")]}


def leave_out_foreign(turns: list[dict[str, Any]], issuer: str) -> list[dict[str, Any]]:
    """The turns without blocks that only another dialect understands; one that had nothing else is left out, too."""
    kept = []
    for turn in turns:
        parts = turn.get("parts") or []
        own = [part for part in parts if part.get("type") != "native" or part.get("issuer") == issuer]
        if len(own) == len(parts):
            kept.append(turn)
        elif own:
            kept.append({**turn, "parts": own})
    return kept


def leave_out_blanks(turns: Any, unsigned: Any = False) -> list[dict[str, Any]]:
    """The turns without text that is only white space and, on demand, without reasoning that nobody signed."""
    return [
        {**turn, "parts": [part for part in turn.get("parts") or () if not _is_blank(part, unsigned)]}
        for turn in turns or ()
    ]


def _is_blank(part: dict[str, Any], unsigned: Any) -> bool:
    if part.get("signature") or part.get("redacted"):
        return False
    if part.get("type") == "reasoning":
        return bool(unsigned)
    return part.get("type") in ("text", "refusal") and not (part.get("text") or "").strip()


def answer_open_calls(turns: Any) -> list[dict[str, Any]]:
    """Turns in two roles, in which every call that the conversation went on after has a result."""
    answered = list(turns or ())
    for place, turn in enumerate(answered[1:], 1):
        calls = [p for p in answered[place - 1]["parts"] if p.get("type") == "tool_call"]
        if not calls or turn["role"] != "user":
            continue
        results = [part for part in turn["parts"] if part.get("type") == "tool_result"]
        known = {part.get("id") for part in results}
        missing = [_no_result(call) for call in calls if call.get("id") not in known]
        if missing:
            answered[place] = {**turn, "parts": [*results, *missing, *turn["parts"][len(results) :]]}
    return answered


def _no_result(call: dict[str, Any]) -> dict[str, Any]:
    said = [{"type": "text", "text": NO_RESULT}]
    return {
        "type": "tool_result",
        "id": call.get("id"),
        "name": call.get("name"),
        "error": True,
        "parts": said,
    }


def trim_last_words(turns: Any) -> list[dict[str, Any]]:
    """The turns; an answer that is to be continued does not end in white space."""
    trimmed = list(turns or ())
    if not trimmed or trimmed[-1]["role"] != "assistant" or trimmed[-1]["parts"][-1].get("type") != "text":
        return trimmed
    *parts, last = trimmed[-1]["parts"]
    text = last["text"].rstrip()
    parts = [*parts, {**last, "text": text}] if text else parts
    return [*trimmed[:-1], {**trimmed[-1], "parts": parts}] if parts else trimmed[:-1]


def has_unsigned_calls(turns: Any) -> bool:
    """Whether the last answer called tools without the signed reasoning that led to it."""
    for turn in reversed(turns or ()):
        if turn.get("role") != "assistant":
            continue
        parts = turn.get("parts") or ()
        signed = any(part.get("type") == "reasoning" and _is_signed(part) for part in parts)
        return not signed and any(part.get("type") == "tool_call" for part in parts)
    return False


def _is_signed(part: dict[str, Any]) -> bool:
    return bool(part.get("signature") or part.get("redacted"))


def fill_call_ids(turns: Any) -> None:
    """Give ids to calls of a dialect that has none, and to their results, which answer calls of a name in order.

    An id follows from where the call stands, so that the same conversation has the same ids in its next turn. One
    that another dialect had to be fitted to is what it was again.
    """
    open_calls: list[tuple[Any, str]] = []
    for place, turn in enumerate(turns or ()):
        for number, part in enumerate(turn.get("parts") or ()):
            kind = part.get("type")
            if kind in ("tool_call", "tool_result"):
                part["id"] = restore_id(part.get("id"))
            if kind == "tool_call":
                if not part.get("id"):
                    part["id"] = f"call_{place}_{number}_{part.get('name')}"[:64]
                open_calls.append((part.get("name"), part["id"]))
            elif kind == "tool_result" and not part.get("id"):
                match = next((call for call in open_calls if call[0] == part.get("name")), None)
                if match is not None:
                    open_calls.remove(match)
                part["id"] = match[1] if match is not None else f"call_{place}_{number}"


def find_call_names(turns: Any) -> Any:
    """The turns with each tool result named after the call that it answers, and `custom` when that was."""
    calls = {
        part["id"]: part
        for turn in turns or ()
        for part in turn.get("parts") or ()
        if part.get("type") == "tool_call" and part.get("id")
    }
    return [_name_results(turn, calls) for turn in turns or ()]


def _name_results(turn: dict[str, Any], calls: dict[str, Any]) -> dict[str, Any]:
    if turn.get("role") != "tool" and not any(
        p.get("type") == "tool_result" for p in turn.get("parts") or ()
    ):
        return turn
    return {**turn, "parts": [_name_result(part, calls) for part in turn["parts"]]}


def _name_result(part: dict[str, Any], calls: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "tool_result":
        return part
    call = calls.get(part.get("id", ""), {})
    named = {**part, "name": part.get("name") or call.get("name")}
    return {**named, "custom": True} if call.get("custom") else named
