"""Receipts: signed for who asks, the same at once and later, checked with public keys alone."""

from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.fernet import Fernet

from engine.billing.receipts import ReceiptSigner
from engine.secret import Secret
from engine.storage.secrets import KeyRing
from tests.harness import Gateway, running, write_files
from tests.http.test_keys import client, issue


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    files = {
        "gateway.yaml": "database: embedded\nredis: none\n",
        "policies.d/prices/b.yaml": "prices: b\nmodels: {'sim/*': {price: {input: '1', output: '2'}}}\n",
    }
    with running(made := Gateway(write_files(tmp_path_factory.mktemp("receipts"), files))):
        yield made


@pytest.fixture(scope="module")
def owner(gateway: Gateway) -> Iterator[httpx.Client]:
    with client(gateway, issue(gateway, "--user", "buyer@b.c", "--scope", "inference")) as made:
        yield made


def ask(owner: httpx.Client, *, stream: bool = False, **headers: str) -> httpx.Response:
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    answer = owner.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    return answer


def read(gateway: Gateway, receipt: str) -> dict[str, Any]:
    """As anybody would who has nothing but the receipt and the address of the keys."""
    keys = jwt.PyJWKSet.from_dict(httpx.get(f"{gateway.url}/.well-known/gatewayz-receipts.json").json())
    key = keys[jwt.get_unverified_header(receipt)["kid"]]
    claims: dict[str, Any] = jwt.decode(receipt, key, algorithms=["EdDSA"], issuer="gatewayz")
    return claims


def test_a_plain_answer_brings_its_receipt_only_when_asked(gateway: Gateway, owner: httpx.Client) -> None:
    assert "x-receipt" not in ask(owner).headers
    answer = ask(owner, **{"x-receipt": "1"})
    claims = read(gateway, answer.headers["x-receipt"])
    assert claims["call_id"] == answer.headers["x-request-id"]
    assert claims["cost_usd"] == answer.headers["x-cost-usd"] != "0"
    assert claims["config_revision"].startswith(answer.headers["x-config-revision"])
    assert claims["pricing"]["book"].startswith("b@") and claims["meters"]["input"] > 0


def test_the_receipt_that_is_asked_for_later_says_the_same(gateway: Gateway, owner: httpx.Client) -> None:
    answer = ask(owner, **{"x-receipt": "1"})
    later = owner.get(f"/v1/receipts/{answer.headers['x-request-id']}").json()
    assert read(gateway, later["receipt"]) == read(gateway, answer.headers["x-receipt"])


def test_a_stream_has_its_receipt_under_the_callers_own_request_id(
    gateway: Gateway, owner: httpx.Client
) -> None:
    answer = ask(owner, stream=True, **{"x-receipt": "1", "x-request-id": "my-own-id-1"})
    assert "x-receipt" not in answer.headers
    claims = read(gateway, owner.get("/v1/receipts/my-own-id-1").json()["receipt"])
    assert claims["status"] == "ok" and claims["cost_usd"] != "0"


def test_a_stream_says_where_its_receipt_is_when_it_was_asked_for(
    gateway: Gateway, owner: httpx.Client
) -> None:
    assert "x-receipt-url" not in ask(owner, stream=True).headers
    answer = ask(owner, stream=True, **{"x-receipt": "1", "x-request-id": "used-by-two"})
    ask(owner, stream=True, **{"x-request-id": "used-by-two"})
    claims = read(gateway, owner.get(answer.headers["x-receipt-url"]).json()["receipt"])
    assert answer.headers["x-receipt-url"] == f"/v1/receipts/{claims['call_id']}"
    assert claims["status"] == "ok" and "x-receipt-url" not in ask(owner, **{"x-receipt": "1"}).headers


def test_nobody_gets_somebody_elses_receipt(gateway: Gateway, owner: httpx.Client) -> None:
    call_id = ask(owner).headers["x-request-id"]
    with client(gateway, issue(gateway, "--user", "thief@b.c", "--scope", "inference")) as thief:
        refused = thief.get(f"/v1/receipts/{call_id}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "call_not_found")


RECORD = {"id": "c", "started_at": 1.5, "tokens": {"input": 1}, "cost_usd": "0.1", "pricing": {}}


def test_receipts_outlive_a_new_entry_of_the_ring_and_no_changed_claim_passes() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    receipt = ReceiptSigner(KeyRing(Secret(old))).sign(RECORD)
    keys = jwt.PyJWKSet.from_dict(ReceiptSigner(KeyRing(Secret(f"{new},{old}"))).list_public_keys())
    key = keys[jwt.get_unverified_header(receipt)["kid"]]
    assert jwt.decode(receipt, key, algorithms=["EdDSA"])["cost_usd"] == "0.1"
    head, _, seal = receipt.split(".")
    cheaper = ReceiptSigner(KeyRing(Secret(new))).sign({**RECORD, "cost_usd": "0.01"}).split(".")[1]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(f"{head}.{cheaper}.{seal}", key, algorithms=["EdDSA"])


def test_public_keys_hold_nothing_private() -> None:
    keys = ReceiptSigner(KeyRing(Secret(Fernet.generate_key().decode()))).list_public_keys()["keys"]
    assert [set(key) for key in keys] == [{"kty", "crv", "x", "kid", "use", "alg"}]
