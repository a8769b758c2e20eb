"""Bodies that are forms: fields as the client wrote them, files as what is to be known of them."""

import re
from typing import Any

from engine.upstream.simulator.dialog import Refused, parse_json
from engine.upstream.simulator.text import mix

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?')
_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILE = re.compile(rb'filename="([^"]*)"')
_MEDIA = re.compile(rb"content-type:\s*([^\r\n]+)", re.IGNORECASE)


def parse_form(body: bytes, media: str) -> dict[str, Any]:
    """The fields of a form, or of a JSON object; `name[]` and names that come again are lists."""
    if "multipart/form-data" not in media:
        return parse_json(body, media)
    boundary = _BOUNDARY.search(media)
    if boundary is None:
        raise Refused(400, "Could not parse multipart form: no boundary in the content type.")
    fields: dict[str, Any] = {}
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if name is None:
            raise Refused(400, "Could not parse multipart form: a part has no name.")
        _add_field(fields, name[1].decode(), _read_part(head, content.removesuffix(b"\r\n")))
    return fields


def _add_field(fields: dict[str, Any], name: str, value: Any) -> None:
    bare = name.removesuffix("[]")
    if bare not in fields:
        fields[bare] = [value] if bare != name else value
    elif isinstance(fields[bare], list):
        fields[bare].append(value)
    else:
        fields[bare] = [fields[bare], value]


def _read_part(head: bytes, content: bytes) -> Any:
    file = _FILE.search(head)
    if file is None:
        return content.decode("utf-8", "replace")
    media = _MEDIA.search(head)
    return {
        "filename": file[1].decode("utf-8", "replace"),
        "media": media[1].decode().strip() if media else "",
        "bytes": len(content),
        "digest": mix(content.hex()),
    }
