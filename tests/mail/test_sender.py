"""Mails leave once: whatever the sink says, whoever dies, however many workers send."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from email import message_from_string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config.reload import Loader
from engine.config.schema_mail import MailFile
from engine.config.settings import read_settings
from engine.errors import ConfigRefused
from engine.mail.samples import SAMPLES
from engine.mail.sender import MailSender, plan_retry
from engine.mail.sinks import Outcome, mask_words, read_answer
from engine.secret import Secret
from engine.storage.outbox import queue_mail
from engine.storage.outgoing import Claimed
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing
from engine.upstream.pools import Upstreams
from tests.homes import lend_parsed_files

BODY = {
    "to": ["{{ mail.to }}"],
    "subject": "{{ mail.subject }}",
    "text": "{{ mail.text }}",
    "key": "{{ mail.key }}",
}


class HttpSink:
    """Takes mails, or answers what `answers` says, one answer for each request; None hangs up."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.answers: list[int | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(next(line for line in head.lower().splitlines() if "content-length" in line).split()[1])
        body = json.loads(await reader.readexactly(length))
        self.heads.append(head)
        status = self.answers.pop(0) if self.answers else 200
        if status in (200, None):
            self.taken.append(body)
        if status is not None:
            location = "location: http://127.0.0.1:1/elsewhere\r\n" if status == 302 else ""
            said = json.dumps({"id": f"mail_{len(self.taken)}"})
            rest = f"{location}content-length: {len(said)}\r\nconnection: close\r\n\r\n{said}"
            writer.write(f"HTTP/1.1 {status} Any\r\n{rest}".encode())
            await writer.drain()
        writer.close()


class SmtpSink:
    """A mail server of a few words. `refuse` is what it answers to RCPT; `vanish` hangs up after the data."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refuse = ""
        self.vanish = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 sink\r\n")
        while line := (await reader.readline()).decode().strip():
            word = line.split()[0].upper()
            if word == "DATA":
                writer.write(b"354 go on\r\n")
                data = (await reader.readuntil(b"\r\n.\r\n")).decode()
                self.taken.append(data)
                if self.vanish:
                    break
                writer.write(b"250 taken\r\n")
            elif word == "RCPT" and self.refuse:
                writer.write(f"{self.refuse}\r\n".encode())
            elif word == "QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 ok\r\n")
        writer.close()


class House:
    """An outbox, a sink and any number of workers that send."""

    def __init__(self, database: Database, ring: KeyRing, folder: Path) -> None:
        self.database, self.ring, self.folder = database, ring, folder
        self.mail = MailFile(mail="default")
        self.upstreams = Upstreams()

    def make_sender(self) -> MailSender:
        snapshot: Any = SimpleNamespace(declared=lambda kind: {"default": self.mail})
        return MailSender(self.database, self.ring, self.upstreams, lambda: snapshot, self.folder)

    async def queue(
        self, name: str = "welcome", ref: str = "r1", to: str = "a@example.org", **more: Any
    ) -> None:
        async def work(connection: Connection) -> None:
            await queue_mail(connection, name, to, SAMPLES[name], ref=ref, **more)

        await self.database.run(work)

    async def hurry(self, claims: bool = False) -> None:
        """What waits is due, and claims have run out."""

        async def work(connection: Connection) -> None:
            await connection.execute("UPDATE mail_outbox SET next_try_at = now()")
            if claims:
                await connection.execute(
                    "UPDATE mail_outbox SET claimed_until = now() - interval '1 second' WHERE claimed_until IS NOT NULL"
                )

        await self.database.run(work)

    async def read(self) -> list[tuple[Any, ...]]:
        async def work(connection: Connection) -> list[tuple[Any, ...]]:
            rows = await connection.execute(
                "SELECT status, attempts, problem, sink_id, data IS NULL AND sealed IS NULL"
                " FROM mail_outbox ORDER BY id"
            )
            return await rows.fetchall()

        return await self.database.run(work)


@pytest.fixture
async def house(database: Database, ring: KeyRing, tmp_path: Path) -> AsyncIterator[House]:
    async def look(connection: Connection) -> None:
        await connection.execute("SELECT 1")

    await database.run(look, probe=True)
    made = House(database, ring, tmp_path)
    yield made
    await made.upstreams.close()


@pytest.fixture
async def http(house: House) -> AsyncIterator[HttpSink]:
    sink = HttpSink()
    async with await asyncio.start_server(sink.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/send"
        house.mail = MailFile.model_validate(
            {
                "mail": "default", "sink": "http", "sender": "The House <house@house.example>", "url": url,
                "headers": {"authorization": "Bearer s3cret-of-the-sink"}, "idempotency_header": "idempotency-key",
                "body": BODY, "allow_private": True, "timeout_s": 2, "when_unsure": "retry",
            }
        )  # fmt: skip
        yield sink


@pytest.fixture
async def smtp(house: House) -> AsyncIterator[SmtpSink]:
    sink = SmtpSink()
    async with await asyncio.start_server(sink.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        house.mail = MailFile.model_validate(
            {
                "mail": "default", "sink": "smtp", "sender": "The House <house@house.example>", "host": "127.0.0.1",
                "port": port, "security": "none", "timeout_s": 2,
            }
        )  # fmt: skip
        yield sink


async def test_a_mail_is_posted_as_the_file_says_and_its_data_is_dropped(
    house: House, http: HttpSink
) -> None:
    await house.queue()
    assert await house.make_sender().send_waiting() == 1
    (sent,), (head,) = http.taken, http.heads
    assert sent["to"] == ["a@example.org"] and sent["subject"] == "Welcome to Gatewayz"
    assert "authorization: Bearer s3cret-of-the-sink" in head and f"idempotency-key: {sent['key']}" in head
    assert await house.read() == [("sent", 1, "", "mail_1", True)]
    assert await house.make_sender().send_waiting() == 0


async def test_what_is_sealed_is_opened_for_its_reader_only(house: House, http: HttpSink) -> None:
    await house.queue("password_reset", ring=house.ring)
    await house.make_sender().send_waiting()
    assert "sample-token" in http.taken[0]["text"]


async def test_many_workers_send_each_mail_once(house: House, http: HttpSink) -> None:
    for number in range(30):
        await house.queue(ref=f"r{number}", to=f"a{number}@example.org")
    senders = [house.make_sender() for _ in range(5)]
    while sum(await asyncio.gather(*(sender.send_waiting() for sender in senders))):
        pass
    assert sorted(sent["to"][0] for sent in http.taken) == sorted(f"a{n}@example.org" for n in range(30))


@pytest.mark.parametrize("status", [401, 403, 429, 302])
async def test_a_refusal_that_may_pass_is_tried_again_later(
    house: House, http: HttpSink, status: int
) -> None:
    http.answers = [status]
    await house.queue()
    sender = house.make_sender()
    await sender.send_waiting()
    assert (await house.read())[0][0] == "failed" and http.taken == []
    assert await sender.send_waiting() == 0  # not yet
    await house.hurry()
    await sender.send_waiting()
    assert [row[:2] for row in await house.read()] == [("sent", 2)]
    assert sender.counts == {"sent": 1, "failed": 1, "given_up": 0}


async def test_a_redirect_takes_the_key_nowhere(house: House, http: HttpSink) -> None:
    http.answers = [302]
    await house.queue()
    await house.make_sender().send_waiting()
    assert len(http.heads) == 1


async def test_a_refusal_for_good_is_not_tried_again_and_its_data_is_dropped(
    house: House, http: HttpSink
) -> None:
    http.answers = [422]
    await house.queue()
    await house.make_sender().send_waiting()
    (row,) = await house.read()
    assert row[0] == "given_up" and row[2].startswith("status 422") and row[4]


@pytest.mark.parametrize("answer", [None, 500, 503])
async def test_an_answer_that_does_not_say_is_tried_again_with_the_same_key(
    house: House, http: HttpSink, answer: int | None
) -> None:
    http.answers = [answer]
    await house.queue()
    sender = house.make_sender()
    await sender.send_waiting()
    await house.hurry()
    await sender.send_waiting()
    keys = {line for head in http.heads for line in head.splitlines() if line.startswith("idempotency-key")}
    assert len(http.heads) == 2 and len(keys) == 1
    assert (await house.read())[0][0] == "sent"


async def test_without_such_keys_a_mail_that_may_have_been_sent_is_not_sent_twice(
    house: House, http: HttpSink
) -> None:
    house.mail = house.mail.model_copy(update={"when_unsure": "give_up"})
    http.answers = [None]
    await house.queue()
    sender = house.make_sender()
    await sender.send_waiting()
    await house.hurry()
    assert await sender.send_waiting() == 0
    assert len(http.taken) == 1 and (await house.read())[0][0] == "given_up"


@pytest.mark.parametrize(("unsure", "sent"), [("retry", 1), ("give_up", 0)])
async def test_who_died_with_a_mail_in_hand_is_followed_as_declared(
    house: House, http: HttpSink, unsure: str, sent: int
) -> None:
    house.mail = house.mail.model_copy(update={"when_unsure": unsure})
    await house.queue()

    async def die(connection: Connection) -> None:
        await connection.execute(
            "UPDATE mail_outbox SET attempts = 1, claimed_until = now() + interval '2 minutes'"
        )

    await house.database.run(die)
    sender = house.make_sender()
    assert await sender.send_waiting() == 0  # somebody may still be at it
    await house.hurry(claims=True)
    await sender.send_waiting()
    assert len(http.taken) == sent


async def test_a_private_address_is_no_sink_unless_the_file_allows_it(house: House, http: HttpSink) -> None:
    house.mail = house.mail.model_copy(update={"allow_private": False})
    await house.queue()
    await house.make_sender().send_waiting()
    assert http.heads == [] and (await house.read())[0][0] == "failed"


async def test_without_a_sink_mails_are_kept(house: House) -> None:
    await house.queue()
    assert await house.make_sender().send_waiting() == 0
    assert (await house.read())[0][:2] == ("pending", 0)


async def test_an_old_mail_is_not_sent_any_more(house: House, http: HttpSink) -> None:
    await house.queue()

    async def age(connection: Connection) -> None:
        await connection.execute("UPDATE mail_outbox SET created_at = now() - interval '3 days'")

    await house.database.run(age)
    await house.make_sender().send_waiting()
    assert http.taken == [] and (await house.read())[0][0] == "given_up"


async def test_over_smtp_the_message_has_both_forms_and_an_id_of_its_own(
    house: House, smtp: SmtpSink
) -> None:
    await house.queue()
    await house.make_sender().send_waiting()
    message = message_from_string(smtp.taken[0])
    assert message["From"] == "The House <house@house.example>" and message["To"] == "a@example.org"
    assert message["Message-ID"].endswith("@house.example>") and len(message["Message-ID"]) > 40
    assert [part.get_content_type() for part in message.walk()][1:] == ["text/plain", "text/html"]
    assert (await house.read())[0][0] == "sent"


@pytest.mark.parametrize(("said", "status"), [("450 later", "failed"), ("550 nobody", "given_up")])
async def test_an_smtp_servers_refusal_of_the_address_is_taken_as_it_is_meant(
    house: House, smtp: SmtpSink, said: str, status: str
) -> None:
    smtp.refuse = said
    await house.queue()
    await house.make_sender().send_waiting()
    assert (await house.read())[0][0] == status and smtp.taken == []


async def test_an_smtp_server_that_vanishes_with_the_mail_is_not_asked_twice(
    house: House, smtp: SmtpSink
) -> None:
    smtp.vanish = True
    await house.queue()
    await house.make_sender().send_waiting()
    assert (await house.read())[0][0] == "given_up" and len(smtp.taken) == 1


async def test_a_server_that_is_not_there_is_tried_again(house: House, smtp: SmtpSink) -> None:
    house.mail = house.mail.model_copy(update={"port": 1})
    await house.queue()
    await house.make_sender().send_waiting()
    assert (await house.read())[0][0] == "failed"


def test_pauses_grow_and_end() -> None:
    mail = MailFile(mail="default", first_retry_s=30, longest_retry_s=100, give_up_after_h=1)

    def plan(attempts: int, age_s: float) -> float | None:
        claimed = Claimed(1, "r", "welcome", "a@b", {}, attempts, age_s, False)
        return plan_retry(claimed, Outcome("refused"), mail)

    assert [plan(n, 0) for n in (1, 2, 3, 50)] == [30, 60, 100, 100]
    assert plan(1, 3580) is None


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "policies.d").mkdir()
    (tmp_path / "home").mkdir(mode=0o700)
    lend_parsed_files(tmp_path / "home")
    yield tmp_path


def load(folder: Path, text: str, **environ: str) -> MailFile:
    (folder / "policies.d/mail.yaml").write_text(text)
    (folder / "gateway.yaml").write_text("database: embedded\n")
    loader = Loader(read_settings(home=folder / "home", config=folder / "gateway.yaml"), environ)
    return loader.prepare(loader.read(), run_examples=False).declared(MailFile)["default"]


def test_the_shipped_presets_are_extended_with_a_sender(folder: Path) -> None:
    text = "mail: default\nextends: resend\nsender: Us <us@us.example>\n"
    mail = load(folder, text, RESEND_API_KEY="re_123456789")
    assert mail.sink == "http" and repr(mail.headers["authorization"]) == "Secret(***)"
    smtp = load(folder, "mail: default\nextends: smtp\nsender: us@us.example\n", SMTP_HOST="mail.us.example")
    assert (smtp.sink, smtp.host) == ("smtp", "mail.us.example")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sink: http\nsender: a@b\n", "url"),
        ("sink: smtp\nsender: a@b\n", "host"),
        ("sink: smtp\nhost: h\n", "sender"),
        ('sender: "a@b\\r\\nBcc: c@d"\n', "one line"),
        (
            'sink: http\nsender: a@b\nurl: https://x.example\nbody: {a: "{{ mail.subject.upper() }}"}\n',
            "body",
        ),
    ],
)
def test_half_a_sink_is_refused_where_it_stands(folder: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigRefused, match=told):
        load(folder, f"mail: default\n{text}")


@pytest.mark.parametrize("padding", [0, 280, 295, 3990])
def test_a_sink_that_quotes_its_key_is_not_quoted(padding: int) -> None:
    key = "re_AbCdEfGhIjKl"
    mail = MailFile.model_validate(
        {
            "mail": "x", "sink": "http", "sender": "a@b.c", "url": "https://mail.test/send", "body": BODY,
            "headers": {"authorization": Secret(f"Bearer {key}")}, "password": Secret(""),
        }
    )  # fmt: skip
    said = read_answer(401, f"{'x' * padding} {key} is wrong; https://x/?token=abcdefghijk".encode(), "id")
    words = mask_words(said.words, mail)
    assert words.startswith("status 401: ") and len(words) <= 300
    assert key[:8] not in words and "abcdefghijk" not in words
