"""Calls of somebody on trial, before a whole gateway: let in, counted, refused, and open again after a payment."""

import json
import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from engine.storage.embedded import EmbeddedDatabase
from tests.commerce.test_http import REASON, SHAPE_OF_TRIALS, find_id, issue, open_client, post
from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files

FILES = {
    "gateway.yaml": "database: embedded\nredis: none\n",
    "policies.d/trial.yaml": 'trial: default\nextends: default\nrequests: 3\ncredit_usd: "5"\n',
    "models.d/paid.yaml": "models:\n  paid:\n    price: {input: '1', output: '1'}\n"
    "    targets: [{provider: local, model: sim/echo}]\n",
    "models.d/gratis.yaml": "models:\n  gratis:\n    price: {input: '0', output: '0'}\n"
    "    targets: [{provider: local, model: sim/echo}]\n",
}
LOCAL = "provider: local\nformat: openai-chat\nbase_url: %s/v1\nauth: none\nallow_private: true\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("trials")
    simulator = Simulator(folder)
    with running(simulator):
        files = FILES | {"providers.d/local.yaml": LOCAL % simulator.url}
        made = Gateway(write_files(folder, files))
        with running(made):
            yield made


@pytest.fixture(scope="module")
def database(gateway: Gateway) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    url = EmbeddedDatabase(gateway.folder / "home").url
    with psycopg.connect(url, autocommit=True) as opened:
        yield opened


def ask(user: httpx.Client, model: str = "paid") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    return user.post("/v1/chat/completions", json=body)


def wait_for_status(user: httpx.Client, status: int, within_s: float = 3.0) -> httpx.Response:
    until = time.monotonic() + within_s
    while (answer := ask(user)).status_code != status:
        assert time.monotonic() < until, answer.text
        time.sleep(0.1)
    return answer


def test_a_trial_from_its_beginning_to_a_payment(
    gateway: Gateway, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    with issue(gateway, "trying") as user, open_client(gateway, ADMIN_KEY) as admin:
        user_id = find_id(user)
        database.execute("UPDATE users SET email_verified = true WHERE id = %s", (user_id,))
        begun = post(user, "/partner-trials/start")["trial_status"]
        assert set(begun) == SHAPE_OF_TRIALS
        assert (begun["trial_active"], begun["trial_remaining_requests"]) == (True, 3)
        time.sleep(1)
        answers = [ask(user) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429], answers[0].text
        told = ask(user)
        assert told.json()["error"]["code"] == "trial_limit_reached"
        assert told.headers["x-trial-remaining-requests"] == "0"
        assert int(told.headers["x-trial-remaining-tokens"]) > 0
        assert 0 < float(told.headers["x-trial-remaining-credits"]) < 5
        assert ask(user, "gratis").status_code == 200
        until = time.monotonic() + 10
        while (balance := user.get("/user/balance").json())["requests_remaining"]:
            assert time.monotonic() < until, "the calls are recorded"
            time.sleep(0.5)
        assert balance["status"] == "trial"

        database.execute("UPDATE trials SET ends_at = now() WHERE user_id = %s", (user_id,))
        database.execute("UPDATE change_counter SET n = n + 1")
        database.execute(
            "UPDATE users SET changed_n = (SELECT n FROM change_counter) WHERE id = %s", (user_id,)
        )
        told = wait_for_status(user, 403)
        assert told.json()["error"]["code"] == "trial_expired"
        assert told.headers["x-trial-expired"] == "true" and told.headers["x-trial-end-date"]
        assert ask(user, "gratis").status_code == 200
        assert user.get("/trial/status").json()["trial_status"]["trial_expired"] is True

        post(admin, "/credits/add", user_id=user_id, amount=1, reason=REASON)
        wait_for_status(user, 200)
        status = user.get("/trial/status").json()["trial_status"]
        assert status["trial_converted"] is True and status["is_trial"] is False
        assert post(user, "/partner-trials/start", 403)["error"]["code"] == "trial_not_needed"
        assert json.dumps(admin.get("/admin/trial/analytics").json()["analytics"]["converted_trials"]) == "1"
