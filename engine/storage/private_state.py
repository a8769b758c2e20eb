"""State that only its provider understands, between a call and the vault: put back into requests, kept of answers."""

from engine.call import Call
from engine.errors import InvalidRequest
from engine.storage.state_vault import StateVault
from engine.wire.answers import AnswerReader
from engine.wire.kept_state import list_open_calls
from engine.wire.requests import read_chat
from engine.wire.translation import TranslatedAnswer, TranslatedStream


class PrivateState:
    def __init__(self, vault: StateVault) -> None:
        self._vault = vault

    async def recall(self, call: Call) -> None:
        """Find what is kept of the tool calls that a request brings back. Never fails a call."""
        if call.caller is None or not self._vault.keeps:
            return
        try:
            open_calls = list_open_calls(read_chat(call, call.door.format))
        except InvalidRequest:
            return  # whoever has to read the request says so; a provider of the same wire may take it
        if open_calls:
            call.kept_state = await self._vault.find(call.caller.key_id, open_calls)

    def keep(self, call: Call, reader: AnswerReader | None) -> None:
        """Keep what the client's dialect has no place for."""
        if call.caller is None or not isinstance(reader, TranslatedStream | TranslatedAnswer):
            return
        if self._vault.keeps and (states := reader.notes.list_states()):
            self._vault.keep(call.caller.key_id, states)
