"""What was said before: put in front of a request that goes on from a kept answer, and kept when an answer is whole.

The gateway does this itself for every provider, because none of them knows the answers of another.
"""

from engine.call import Call
from engine.errors import AnswerMissing, InvalidRequest
from engine.storage.answers import AnswerStore, Kept
from engine.wire.json_text import write_json


class Conversations:
    def __init__(self, store: AnswerStore) -> None:
        self._store = store

    async def recall(self, call: Call) -> None:
        """Complete a request that names the answer it goes on from. Raises InvalidRequest, DependencyAway."""
        stored, caller = call.door.format.stored, call.caller
        previous = call.request.get(stored.previous) if stored is not None else None
        if stored is None or caller is None or not previous:
            return
        try:
            earlier = await self._store.find_conversation(caller.key_id, previous)
        except AnswerMissing as missing:
            code, param = "previous_response_not_found", stored.previous
            raise InvalidRequest(missing.message, code=code, param=param) from missing
        call.as_asked = call.request
        call.request = stored.go_on(call.request, earlier)
        call.body = write_json(call.request)

    def keep(self, call: Call, end: bytes) -> None:
        """Keep a whole answer, whose last bytes are `end`, if its request wants that."""
        stored, caller = call.door.format.stored, call.caller
        asked = call.as_asked if call.as_asked is not None else call.request
        if stored is None or caller is None or not (self._store.keeps and stored.is_wanted(asked)):
            return
        answer = stored.read_answer(end, stream=call.stream)
        if answer is not None:
            said = stored.list_items(asked) or []
            previous = asked.get(stored.previous) or None
            self._store.keep(
                Kept(caller.key_id, answer["id"], previous, write_json(said), write_json(answer))
            )
