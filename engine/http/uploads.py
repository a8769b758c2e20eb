"""A form that is passed on as it arrives: read up to what routing needs, kept as long as it is small.

Until the model is known, everything is kept (above `keep_bytes` in a temporary file), because some clients send the
file first. From then on a body that is larger than `keep_bytes` is passed on without being kept: the upload is `spent`,
and nobody else can be asked with it. The client is read only as fast as the upstream takes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from tempfile import SpooledTemporaryFile
from typing import Any

from engine.errors import BodyTooLarge, ClientGone, InvalidRequest
from engine.wire.forms import FormReader, Splice, apply_splices, edit_form, malformed

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

PIECE_BYTES = 64 * 1024


class FormUpload:
    """One for each call with a form."""

    def __init__(
        self,
        receive: Receive,
        content_type: str,
        boundary: bytes,
        length: int | None,
        *,
        max_bytes: int,
        keep_bytes: int,
    ) -> None:
        if length is not None and length > max_bytes:
            raise too_large(max_bytes)
        self._receive = receive
        self.content_type = content_type
        self._form = FormReader(boundary)
        self._length = length
        self._max_bytes, self._keep_bytes = max_bytes, keep_bytes
        self._kept = SpooledTemporaryFile(max_size=keep_bytes)
        self._received = 0
        self._more = True
        self.spent = False

    async def read_head(self) -> dict[str, Any]:
        """The text fields up to the first file, or up to the model if that comes later."""
        form = self._form
        while self._more and not (form.files and any(field.name == "model" for field in form.fields)):
            self._kept.write(await self._read_piece())
        request = form.as_request()
        request["file"] = {"bytes": self._length or self._received}
        return request

    def open(self, edits: Mapping[str, Any]) -> "bytes | EditedForm":
        """The body with these fields otherwise: whole if it is here and small."""
        splices = edit_form(self._form.fields, edits, self._form.boundary)
        if not self._more and self._received <= self._keep_bytes:
            self._kept.seek(0)
            return apply_splices(self._kept.read(), splices)
        length = self._length if self._more else self._received
        return EditedForm(self, splices, length)

    def close(self) -> None:
        self._kept.close()

    def read_kept(self, start: int, end: int | None = None) -> bytes:
        self._kept.seek(start)
        return self._kept.read(PIECE_BYTES if end is None else min(PIECE_BYTES, end - start))

    async def read_on(self) -> AsyncIterator[bytes]:
        """What the client has still to send."""
        while self._more:
            piece = await self._read_piece()
            if self._received <= self._keep_bytes:
                self._kept.seek(0, 2)
                self._kept.write(piece)
            else:
                self.spent = True
            yield piece

    async def _read_piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left before its request was complete")
        piece: bytes = message.get("body", b"")
        self._more = bool(message.get("more_body"))
        self._received += len(piece)
        if self._received > self._max_bytes:
            raise too_large(self._max_bytes)
        self._form.feed(piece)
        if not self._more and not self._form.ended:
            raise malformed("it ends before its last boundary")
        return piece


class EditedForm:
    """A form on its way: what was kept of it, with the edits, then the rest as it comes."""

    def __init__(self, upload: FormUpload, splices: Sequence[Splice], length: int | None) -> None:
        self._upload, self._splices = upload, splices
        grown = sum(splice.growth for splice in splices)
        self.length = None if length is None else length + grown

    async def pieces(self) -> AsyncIterator[bytes]:
        upload, at = self._upload, 0
        for splice in self._splices:
            while at < splice.start:
                piece = upload.read_kept(at, splice.start)
                at += len(piece)
                yield piece
            yield splice.text
            at = splice.end
        while piece := upload.read_kept(at):
            at += len(piece)
            yield piece
        async for piece in upload.read_on():
            yield piece


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the form is larger than {limit} bytes (server.max_upload_mb)")


def read_length(text: bytes) -> int | None:
    """What a content-length says; None when there is none."""
    if not text:
        return None
    if not text.isdigit():
        raise InvalidRequest("the content-length is not a number")
    return int(text)
