"""What was said before: put in front of a request that goes on from a kept answer, and kept when an answer is whole.

Items that a request has by their ids alone are put in, too. The gateway does this itself for every provider, because
none of them knows the answers of another.
"""

from collections.abc import Mapping
from typing import Any

from engine.call import GUEST, Call
from engine.errors import AnswerMissing, InvalidRequest
from engine.storage.answers import AnswerStore, Kept
from engine.wire.json_text import write_json
from engine.wire.stored import Stored


class Conversations:
    def __init__(self, store: AnswerStore) -> None:
        self._store = store

    async def recall(self, call: Call) -> None:
        """Complete a request that names what was said before. Raises InvalidRequest, DependencyAway."""
        stored, caller = call.door.format.stored, call.caller
        if stored is None or caller is None:
            return
        request, param = call.request, stored.previous
        try:
            if previous := request.get(stored.previous):
                request = stored.go_on(request, await self._store.find_conversation(caller.key_id, previous))
            param = stored.input
            if wanted := stored.find_references(request):
                request = stored.put_items(request, await self._find_items(caller.key_id, stored, wanted))
        except AnswerMissing as missing:
            code = "previous_response_not_found"
            raise InvalidRequest(missing.message, code=code, param=param) from missing
        if request is not call.request:
            call.as_asked, call.request, call.body = call.request, request, write_json(request)

    async def _find_items(
        self, key_id: str, stored: Stored, wanted: Mapping[str, str]
    ) -> dict[str, dict[str, Any]]:
        """The items of these ids, from the answers that they were part of. Raises AnswerMissing, DependencyAway."""
        found: dict[str, dict[str, Any]] = {}
        for answer_id in dict.fromkeys(wanted.values()):
            kept = await self._store.find(key_id, answer_id)
            for item in kept.read().answer.get(stored.output) or ():
                found[item.get("id")] = item
        if missing := [id for id in wanted if id not in found]:
            raise AnswerMissing(f"no item {missing[0][:100]} is stored for this key")
        return found

    def keep(self, call: Call, end: bytes) -> None:
        """Keep a whole answer, whose last bytes are `end`, if its request wants that."""
        stored, caller = call.door.format.stored, call.caller
        asked = call.as_asked if call.as_asked is not None else call.request
        if (
            stored is None
            or caller is None
            or caller.role == GUEST
            or not (self._store.keeps and stored.is_wanted(asked))
        ):
            return
        answer = stored.read_answer(end, stream=call.stream)
        if answer is not None:
            said = stored.list_items(asked) or []
            previous = asked.get(stored.previous) or None
            self._store.keep(
                Kept(caller.key_id, answer["id"], previous, write_json(said), write_json(answer))
            )
