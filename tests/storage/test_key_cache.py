import hashlib
import tracemalloc
from pathlib import Path

import orjson
from cryptography.fernet import Fernet

from engine.call import Caller
from engine.secret import Secret
from engine.storage.key_cache import CACHE_FILE, MOST_KEYS, KeyCacheFile, KnownKey
from engine.storage.secrets import KeyRing


def make_key(number: int, *, n: int = 1, role: str = "user") -> KnownKey:
    hashed = hashlib.sha256(b"%d" % number).digest()
    return KnownKey(hashed, Caller(f"key_{number}", f"user_{number}", role=role, name='a "b",\n]}'), n)


def make_file(home: Path) -> KeyCacheFile:
    return KeyCacheFile(home, KeyRing(Secret(Fernet.generate_key().decode())))


def list_ids(file: KeyCacheFile) -> list[str]:
    return [key.caller.key_id for key in file.load()]


def test_what_was_merged_is_loaded_with_what_was_learned_last_at_the_end(tmp_path: Path) -> None:
    file = make_file(tmp_path)
    assert file.load() == []
    file.merge([], {})
    assert file.load() == []
    file.merge([make_key(number) for number in range(4)], {})
    again = make_key(1, n=5, role="auditor")
    file.merge([again], {})
    assert list_ids(file) == ["key_0", "key_2", "key_3", "key_1"]
    assert file.load()[-1] == again


def test_a_key_that_changed_since_it_was_written_is_left_out(tmp_path: Path) -> None:
    file = make_file(tmp_path)
    file.merge([make_key(number, n=3) for number in range(4)], {})
    file.merge([], {"key_0": 3, "key_2": 4, "key_9": 9})
    assert list_ids(file) == ["key_0", "key_1", "key_3"]


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    file = make_file(tmp_path)
    file.merge([make_key(number) for number in range(MOST_KEYS)], {})
    file.merge([make_key(number) for number in range(MOST_KEYS, MOST_KEYS + 3)], {})
    assert list_ids(file) == [f"key_{number}" for number in range(3, MOST_KEYS + 3)]


def test_the_file_is_json_and_one_of_another_layout_is_not_read(tmp_path: Path) -> None:
    ring = KeyRing(Secret(Fernet.generate_key().decode()))
    file = KeyCacheFile(tmp_path, ring)
    file.merge([make_key(1), make_key(2)], {})
    body = (tmp_path / CACHE_FILE).read_bytes().partition(b"\n")[2]
    stored = orjson.loads(body)
    assert [row[2] for row in stored["keys"][:-1]] == ["key_1", "key_2"]
    older = orjson.dumps(stored | {"layout": 7})
    (tmp_path / CACHE_FILE).write_bytes(ring.seal(older).encode() + b"\n" + older)
    assert file.load() == []


def test_merging_into_a_full_file_takes_little_memory(tmp_path: Path) -> None:
    file = make_file(tmp_path)
    file.merge([make_key(number) for number in range(MOST_KEYS)], {})
    size, new = (tmp_path / CACHE_FILE).stat().st_size, make_key(MOST_KEYS)
    tracemalloc.start()
    file.merge([new], {"key_5": 9})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * size
