"""After a rotation nothing that is encrypted needs an older entry of the ring."""

from cryptography.fernet import Fernet

from engine.mail.samples import SAMPLES
from engine.secret import Secret
from engine.storage.outbox import queue_mail
from engine.storage.outgoing import claim_mails
from engine.storage.persons import list_marks
from engine.storage.postgres import Connection
from engine.storage.ring_rotation import encrypt_anew
from engine.storage.secrets import KeyRing
from engine.storage.users import get_or_create_user


async def test_waiting_mails_and_the_key_of_persons_are_encrypted_anew(connection: Connection) -> None:
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    before, both, after = (KeyRing(Secret(text)) for text in (old, f"{new},{old}", new))
    user_id = await get_or_create_user(connection, "somebody@example.org")
    marks = await list_marks(connection, before, user_id, proven=False)
    data = SAMPLES["password_reset"]
    await queue_mail(connection, "password_reset", "somebody@example.org", data, ref="r", ring=before)

    done = await encrypt_anew(connection, both)

    assert (done.mails, done.unreadable) == (1, 0)
    assert await list_marks(connection, after, user_id, proven=False) == marks != frozenset()
    (mail,) = await claim_mails(connection, after, 10)
    assert mail.data == data
