import pytest

from engine.telemetry.redaction import mask_line, mask_text

LONG = "AbCdEfGh0123456789ijklMNOP4567qrstUVWX"


@pytest.mark.parametrize(
    "text",
    [
        f"key gw_live_{LONG}-_aZ09 was refused",
        f"key gw_test_{LONG}",
        f"Incorrect API key provided: sk-proj-{LONG}",
        f"sk-ant-api03-{LONG}-{LONG}",
        f"Authorization: Bearer {LONG}",
        f"{{'authorization': 'bearer {LONG}'}}",
        f"GET /models?key={LONG} failed",
        f"AIza{LONG}",
        f"AKIA{LONG.upper()}",
        f"eyJhbGciOiJI.{LONG}.{LONG}",
        f"gsk_{LONG} is not valid",
        f"hf_{LONG}",
        f"connection to postgresql://app:{LONG}@db:5432/x failed",
        f"host=db password={LONG} dbname=x",
        f"headers [('x-api-key', '{LONG}')]",
        f"api_key={LONG}&x=1",
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str) -> None:
    assert "***" in mask_text(text)
    for piece in (LONG, LONG.upper()):
        assert piece not in mask_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "call_0123456789abcdef0123456789abcdef took 3 s",
        "model qwen-2.5-VL-72B-Instruct-AWQ answered",
        "deepseek-r1-distill-Llama-70B",
        "https://api.example.com/v1/chat/completions",
        '{"request_id":"req_0123456789abcdef01234567","key_id":"key_01j9x3","status":"error"}',
        "revision 3f786850e387550fdab836ed7e6dc881de23001b",
        "the password is wrong",
        "a task-force of sk",
    ],
)
def test_what_is_needed_to_understand_a_line_stays(text: str) -> None:
    assert mask_text(text) == text


def test_a_masked_line_is_still_json() -> None:
    line = b'{"message":"Bearer abcdefgh\\nsecond","url":"postgres://u:p@h","x-api-key":"abcdefghij"}'
    assert (
        mask_line(line) == b'{"message":"Bearer ***\\nsecond","url":"postgres://u:***@h","x-api-key":"***"}'
    )
