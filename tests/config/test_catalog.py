"""What a folder of files becomes, and what is said when it cannot."""

from decimal import Decimal
from typing import Any

import pytest

from engine.config.snapshot import Price
from engine.secret import Secret
from tests.config.conftest import Folder, provider

CONTRACT_PROVIDER = """
    provider: local-vllm
    format: openai-chat
    base_url: http://10.0.0.7:8000/v1
    auth: {bearer: "${VLLM_KEY:-none}"}
    allow_private: true            # loopback, private and link-local targets must be allowed by the file
    passthrough: true              # provider/any-model-id may be asked for, not only what models.d lists
    params: {drop: [logit_bias], rename: {max_completion_tokens: max_tokens}, clamp: {temperature: [0, 2]}, default: {top_p: 1}, force: {store: false}}
    headers: {x-team: platform}
    """  # noqa: E501 the contract's own lines
CONTRACT_MODEL = """
    models:
      gpt-4o-mini:
        aliases: [openai/gpt-4o-mini, gpt4o-mini]
        capabilities: [chat, tools, vision, json_schema]
        limits: {context: 128000, output: 16384}
        price: {input: "0.15", output: "0.60", cached_input: "0.075"}     # USD per 1M tokens, decimals as text
        strategy: failover            # failover | weighted | least_latency | cheapest
        policy: standard
        targets:
          - {provider: openai, model: gpt-4o-mini}
          - {provider: openrouter, model: openai/gpt-4o-mini, weight: 20}
    """
CONTRACT_POLICY = """
    policy: standard
    retry: {max: 2, on: [429, 500, 502, 503, 504, connect, reset], backoff: {first_s: 0.4, factor: 2, jitter: 0.3, max_s: 5}, honour_retry_after_s: 10}
    timeouts: {connect_s: 5, headers_s: 30, first_token_s: 30, idle_s: 60, answer_s: 600, total_s: 1800}
    failover: {on: [401, 402, 403, 404, 408, 429, 5xx, connect, reset, timeout, broken_stream, context_length_exceeded], never: [content_filter, invalid_request]}
    breaker: {failures: 5, window_s: 60, min_requests: 10, ratio: 0.5, open_s: 10, half_open: 1, counts: [5xx, connect, reset, timeout, broken_stream]}
    limits:                         # key, user, team, model, ip, system
      key: {requests: {minute: 250, hour: 1000, day: 10000}, tokens: {minute: 200000}, burst: 100, concurrency: 50}
    assume_output_tokens: 4096
    when_redis_away: divide         # divide | refuse | allow
    budgets: [{per: key, every: month, usd: "20", hard: true, alert_at: [0.8, 0.9, 1]}]
    billing: {on_abort: delivered, on_error: delivered, fallback_attempts: never, markup: "0", unknown_price: refuse}
    on_disconnect: cancel           # cancel | drain (reads on to the usage, bounded by time and cost)
    rescue: auto                    # auto | continue | restart | error
    """  # noqa: E501 the contract's own lines


def model(name: str = "m", target: str = "alpha", more: str = "") -> str:
    head = f'models:\n  {name}:\n    price: {{input: "1", output: "2"}}\n'
    return f"{head}    targets: [{{provider: {target}, model: x}}]\n{more}"


def test_every_shape_of_the_contract_loads_verbatim(folder: Folder) -> None:
    snapshot = folder.load({
        "providers.d/local-vllm.yaml": CONTRACT_PROVIDER,
        "models.d/openai.yaml": CONTRACT_MODEL,
        "policies.d/standard.yaml": CONTRACT_POLICY,
    })  # fmt: skip
    vllm = snapshot.providers["local-vllm"]
    assert vllm.auth.credentials[0].secret == Secret("none")
    assert vllm.headers == {"x-team": "platform"}
    assert vllm.params.clamp == {"temperature": (0, 2)}
    gpt = snapshot.names["gpt4o-mini"]
    assert gpt is snapshot.models["gpt-4o-mini"]
    assert [target.name for target in gpt.targets] == ["openai/gpt-4o-mini", "openrouter/openai/gpt-4o-mini"]
    assert gpt.policy.name == "standard"
    assert snapshot.warnings == ()


def test_the_shipped_default_policy_has_the_contracts_numbers_but_no_limits(
    folder: Folder,
) -> None:
    snapshot = folder.load({"policies.d/a.yaml": CONTRACT_POLICY, "policies.d/b.yaml": "policy: bare"})
    default, standard, bare = (snapshot.policies[name] for name in ("default", "standard", "bare"))
    for field in type(default).__dataclass_fields__:
        if field not in ("name", "limits", "limits_tokens", "budgets"):
            assert getattr(default, field) == getattr(standard, field) == getattr(bare, field), field
    assert default.limits == bare.limits == {}
    assert standard.limits["key"].requests == {60: 250, 3600: 1000, 86400: 10000}


def test_a_policy_that_leaves_keys_out_takes_the_defaults_of_those_keys_only(folder: Folder) -> None:
    policy = folder.load(
        {"policies.d/p.yaml": "policy: p\ntimeouts: {idle_s: 10}\nlimits: {key: {}}"}
    ).policies["p"]
    assert (policy.timeouts.idle_s, policy.timeouts.connect_s) == (10, 5)
    assert policy.limits["key"].requests == {}
    assert policy.limits["key"].concurrency is None


def test_prices_are_per_token_decimals_with_the_nearest_class_for_what_is_left_out(folder: Folder) -> None:
    snapshot = folder.load({
        "providers.d/a.yaml": provider(),
        "models.d/m.yaml": """
            models:
              m:
                price: {input: "0.15", output: "0.60", cached_input: "0.075", request: "0.001"}
                targets: [{provider: alpha, model: x}, {provider: alpha, model: y, price: {input: 3, cache_write: "4"}}]
            """,
    })  # fmt: skip
    first, second = snapshot.models["m"].targets
    read, written = Decimal("0.00000015"), Decimal("0.0000006")
    assert first.price == Price(
        input=read,
        output=written,
        cached_input=Decimal("0.000000075"),
        cache_write=read,
        cache_write_1h=read,
        reasoning=written,
        audio_input=read,
        audio_output=written,
        image_input=read,
        image_output=written,
        request=Decimal("0.001"),
    )
    assert second.price is not None
    assert (second.price.input, second.price.cache_write_1h) == (Decimal("0.000003"), Decimal("0.000004"))


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("{input: 0.15}", 'price.input: write money as text, such as "0.15", so that no digit is lost'),
        ('{input: "-1"}', "price.input: an amount must be finite and not negative"),
        ('{input: "NaN"}', "price.input: an amount must be finite and not negative"),
        ('{input: "1e99"}', "price.input: an amount of this size cannot be meant"),
        ("{input: cheap}", 'price.input: an amount of US dollars as text is expected, such as "0.15"'),
        ("{input: true}", 'price.input: an amount of US dollars as text is expected, such as "0.15"'),
        ('{output: "1"}', "price: `input`, `request` or the price of a unit is missing"),
        ('{input: "1", ouput: "2"}', 'price.ouput: unknown key (did you mean "output"?)'),
    ],
)
def test_a_price_that_is_not_exact_money_is_refused(price: str, message: str, folder: Folder) -> None:
    text = f"models:\n  m:\n    price: {price}\n    targets: [{{provider: alpha, model: x}}]\n"
    problems = folder.refuse({"providers.d/a.yaml": provider(), "models.d/m.yaml": text})
    assert len(problems) == 1
    assert problems[0].startswith("models.d/m.yaml:3:") and problems[0].endswith(message)


@pytest.mark.parametrize(
    ("auth", "kind", "header", "secrets"),
    [
        ("{bearer: k}", "bearer", "authorization", ["k"]),
        ('{bearer: ["${A}", "${B}"]}', "bearer", "authorization", ["one", "two"]),
        ('{bearer: [{key: "${A}", weight: 2, models: ["gpt-*"], base_url: "https://eu.example.com/"}, x]}',
         "bearer", "authorization", ["one", "x"]),
        ('{header: {name: X-Api-Key, value: "${A}"}}', "header", "x-api-key", ["one"]),
        ('{header: {name: X-Api-Key, value: ["${A}", {key: "${B}"}]}}', "header", "x-api-key", ["one", "two"]),
        ("{basic: user:pass}", "basic", "authorization", ["user:pass"]),
        ('{basic: {username: user, password: "${A}"}}', "basic", "authorization", ["user:one"]),
        ("{query: {name: key, value: k}}", "query", "key", ["k"]),
        ("none", "none", "", [""]),
        ("{}", "none", "", [""]),
    ],
)  # fmt: skip
def test_every_way_of_sending_a_credential(
    auth: str, kind: str, header: str, secrets: list[str], folder: Folder
) -> None:
    folder.environ = {"A": "one", "B": "two"}
    text = f"provider: p\nformat: openai-chat\nbase_url: https://p.example.com\nauth: {auth}\n"
    found = folder.load({"providers.d/p.yaml": text}).providers["p"]
    assert (found.auth.kind, found.auth.header) == (kind, header)
    assert [credential.secret.reveal() for credential in found.auth.credentials] == secrets
    assert [credential.name for credential in found.auth.credentials] == [
        f"p#{n}" for n in range(len(secrets))
    ]
    assert found.configured and found.enabled and found.reason == ""


def test_facts_of_one_credential_are_kept(folder: Folder) -> None:
    more = 'auth: {bearer: [{key: k, weight: 2, models: ["gpt-*"], base_url: "https://eu.example.com/"}]}'
    text = f"provider: p\nformat: openai-chat\nbase_url: https://p.example.com/\n{more}\n"
    found = folder.load({"providers.d/p.yaml": text}).providers["p"]
    credential = found.auth.credentials[0]
    assert (credential.weight, credential.models, credential.base_url) == (
        2,
        ("gpt-*",),
        "https://eu.example.com",
    )
    assert found.base_url == "https://p.example.com"


def test_a_provider_without_its_credential_is_not_configured_and_no_error(folder: Folder) -> None:
    snapshot = folder.load({})
    openai = snapshot.providers["openai"]
    assert (openai.enabled, openai.configured) == (True, False)
    assert openai.reason == "environment variable OPENAI_API_KEY is not set"


def test_the_credentials_that_are_there_are_enough(folder: Folder) -> None:
    folder.environ = {"B": "two"}
    text = 'provider: p\nformat: openai-chat\nbase_url: https://p.example.com\nauth: {bearer: ["${A}", "${B}"]}\n'
    found = folder.load({"providers.d/p.yaml": text}).providers["p"]
    assert [(credential.name, credential.secret.reveal()) for credential in found.auth.credentials] == [
        ("p#1", "two")
    ]
    assert found.configured


def test_a_missing_base_url_or_credential_file_makes_a_provider_unconfigured_too(folder: Folder) -> None:
    snapshot = folder.load({
        "providers.d/a.yaml": 'provider: a\nformat: openai-chat\nbase_url: "${WHERE}"\nauth: {bearer: k}\n',
        "providers.d/b.yaml": provider("b").replace("key-of-b", '"${file:/no/key}"'),
    })  # fmt: skip
    assert snapshot.providers["a"].reason == "environment variable WHERE is not set"
    assert snapshot.providers["b"].reason == "file /no/key cannot be read"


def test_a_missing_variable_anywhere_else_is_a_problem_with_its_place(folder: Folder) -> None:
    problems = folder.refuse({"providers.d/a.yaml": provider(more='headers:\n  x-team: "${TEAM}"\n')})
    assert problems == ["providers.d/a.yaml:6:3 headers.x-team: environment variable TEAM is not set"]


def test_headers_with_references_are_secrets(folder: Folder) -> None:
    folder.environ = {"TEAM": "hush"}
    found = folder.load({"providers.d/a.yaml": provider(more='headers: {x-team: "${TEAM}", x-plain: yes}')})
    assert found.providers["alpha"].headers == {"x-team": Secret("hush"), "x-plain": "yes"}


def test_endpoints_come_from_the_format_and_may_be_moved_or_left_out(folder: Folder) -> None:
    more = "endpoints: {embeddings: false, completions: {path: /beta/completions}}"
    found = folder.load({"providers.d/a.yaml": provider(more=more)}).providers["alpha"]
    assert {name: (end.format.name, end.path) for name, end in found.endpoints.items()} == {
        "chat": ("openai-chat", "/chat/completions"),
        "completions": ("openai-completions", "/beta/completions"),
    }


def test_a_path_may_name_the_model(folder: Folder) -> None:
    more = 'endpoints: {chat: {path: "/models/{{ target.model }}/chat"}}\npassthrough: true'
    files = {"providers.d/a.yaml": provider(more=more), "models.d/m.yaml": model()}
    snapshot = folder.load(files)
    target = snapshot.models["m"].targets[0]
    assert target.provider.endpoints["chat"].path_for(target) == "/models/x/chat"


def test_a_provider_may_read_usage_elsewhere_than_its_format(folder: Folder) -> None:
    snapshot = folder.load({"providers.d/a.yaml": provider(more='usage: {from: "$.x.usage"}')})
    format = snapshot.providers["alpha"].endpoints["chat"].format
    usage = format.read_usage({"x": {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}})
    assert usage is not None and (usage.input, usage.output) == (3, 2)
    assert snapshot.formats["openai-chat"].read_usage({"x": {"usage": {"prompt_tokens": 3}}}) is None


def test_a_misspelt_provider_is_told_with_place_and_near_name(folder: Folder) -> None:
    text = """
        models:
          claude:
            price: {input: "1"}
            targets:
              - {provider: anthropic, model: claude}
              - provider: antropic
                model: claude
        """
    problems = folder.refuse(
        {"providers.d/anthropic.yaml": provider("anthropic"), "models.d/claude.yaml": text}
    )
    assert problems == [
        'models.d/claude.yaml:6:9 targets[1].provider: no provider "antropic" (did you mean "anthropic"?)'
    ]


def test_a_word_that_is_nearly_a_known_one_is_told_with_it(folder: Folder) -> None:
    problems = folder.refuse({
        "providers.d/a.yaml": provider("alpha", "endpoints: {embedings: false}\n"),
        "policies.d/p.yaml": "policy: p\non_loss: fial\n",
    })  # fmt: skip
    assert [line.rpartition(" (")[2] for line in problems] == [
        'did you mean "fail"?)',
        'did you mean "embeddings"?)',
    ]


def test_targets_that_are_wrong_are_not_said_to_be_missing(folder: Folder) -> None:
    text = "models:\n  m:\n    price: {input: '1'}\n    targets: [{provider: alpha, model: x, weight: -1}]\n"
    problems = folder.refuse({"providers.d/a.yaml": provider("alpha"), "models.d/m.yaml": text})
    assert problems == [
        "models.d/m.yaml:4:43 targets[0].weight: should be greater than or equal to 0",
    ]


def test_a_mistake_in_a_format_of_a_providers_own_has_its_place(folder: Folder) -> None:
    text = (
        "provider: alpha\nformat:\n  extends: openai-chat\n  reply:\n    id: '{{ doc.id | nthing }}'\n"
        "base_url: https://x.example.com\nauth: none\nusage: {from: '$['}\n"
    )
    problems = folder.refuse({"providers.d/a.yaml": text})
    assert [line.partition(": ")[0] for line in problems] == [
        "providers.d/a.yaml:5:5 format.reply.id",
        "providers.d/a.yaml:8:9 usage.from",
    ]


def test_all_problems_of_all_files_come_in_one_report_in_order(folder: Folder) -> None:
    problems = folder.refuse({
        "gateway.yaml": "sever: {port: 1}\n",
        "providers.d/a.yaml": provider("alpha", "parms: {}\nauht: 1\n"),
        "providers.d/b.yaml": "provider: b\nformat: openai-chta\nbase_url: ftp://x\n",
        "providers.d/c.yaml": "provider: c\nprovider: d\n",
        "models.d/m.yaml": model("m", "nobody", "    policy: strict\n    strategy: random\n"),
        "models.d/n.yaml": model("n", "nobody", "    policy: strict\n"),
        "policies.d/p.yaml": "policy: p\nretry: {on: [429, connct], max: -1}\n",
        "models.d/o.yaml": "nothing: here\n",
    })  # fmt: skip
    assert problems == [
        'gateway.yaml:1:1 sever: unknown key (did you mean "server"?)',
        'models.d/m.yaml:4:16 targets[0].provider: no provider "nobody"',
        'models.d/m.yaml:5:5 policy: no policy "strict"',
        'models.d/m.yaml:6:5 strategy: should be \'failover\', \'weighted\', \'least_latency\' or \'cheapest\'',
        'models.d/n.yaml:4:16 targets[0].provider: no provider "nobody"',
        'models.d/n.yaml:5:5 policy: no policy "strict"',
        "models.d/o.yaml:1:1 this file names nothing; "
        "a key that names it is expected, such as provider, models or policy",
        'policies.d/p.yaml:2:19 retry.on[1]: expected an HTTP status (429), 4xx, 5xx, or one of connect, reset, '
        "timeout, broken_stream, context_length_exceeded, content_filter, invalid_request",
        "policies.d/p.yaml:2:28 retry.max: should be greater than or equal to 0",
        'providers.d/a.yaml:5:1 parms: unknown key (did you mean "params"?)',
        'providers.d/a.yaml:6:1 auht: unknown key (did you mean "auth"?)',
        'providers.d/b.yaml:2:1 format: no wire format "openai-chta" (did you mean "openai-chat"?)',
        "providers.d/b.yaml:3:1 base_url: must begin with https:// or http:// and name a host",
        "providers.d/c.yaml:1:1 base_url: is missing",
        "providers.d/c.yaml:1:1 format: is missing",
        'providers.d/c.yaml:2:1 provider: duplicate key "provider" (first at line 1, column 1)',
    ]  # fmt: skip


def test_no_message_ever_shows_a_value(folder: Folder) -> None:
    folder.environ = {"KEY": "sk-very-secret-value"}
    text = """
        provider: p
        format: openai-chat
        base_url: "${KEY}"
        auth: {bearer: {key: "${KEY}", wight: "${KEY}"}, extra: "${KEY}"}
        stream_usage: "${KEY}"
        """
    problems = folder.refuse({"providers.d/p.yaml": text})
    assert len(problems) == 3
    assert "sk-very" not in "\n".join(problems)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("base_url: http://127.0.0.1:9/v1", "127.0.0.1 is a private address; write `allow_private: true`"),
        ("base_url: http://localhost:8000/v1\nallow_private: true", "points at this gateway itself"),
        (
            "base_url: https://x.example.com\nauth: {bearer: a, query: {name: b, value: c}}",
            "one of bearer, header",
        ),
        ("base_url: https://x.example.com\nauth: {bearer: []}", "must not be empty"),
        (
            "base_url: https://x.example.com\nauth: {bearer: [{key: a, weight: 0}]}",
            "should be greater than 0",
        ),
        ("base_url: https://x.example.com\nauth: {bearer: {key: '${A B}'}}", "${A B} is not a reference"),
        ("base_url: https://x.example.com\nstream_usage: sometimes", "should be 'ask', 'always' or 'never'"),
        ("base_url: https://x.example.com\nunknown_price: cheap", "should be 'refuse' or 'free'"),
        ("base_url: https://x.example.com\nunknown_price: {input: 0.5}", "write money as text"),
        ("base_url: https://x.example.com\nparams: {clamp: {temperature: [2, 0]}}", "the low end is above"),
        (
            "base_url: https://x.example.com\nparams: {clamp: {temperature: [0, .inf]}}",
            "should be a valid number",
        ),
        ("base_url: https://x.example.com\nendpoints: {embeddings: {format: nope}}", 'no wire format "nope"'),
        (
            "base_url: https://x.example.com\nendpoints: {embeddings: {pth: /x}}",
            'unknown key (did you mean "path"?)',
        ),
        ("base_url: https://x.example.com\nendpoints: {imags: false}", "should be 'chat', 'completions',"),
        ("base_url: https://x.example.com\nusage: {counts: {promt: $.x}}", "not a class of tokens"),
        ("base_url: https://x.example.com\nusage: {from: '$..['}", "usage.from"),
        ("base_url: https://x.example.com\nformat: openai-chat", "duplicate key"),
    ],
)
def test_a_wrong_provider_is_refused(more: str, message: str, folder: Folder) -> None:
    problems = folder.refuse({"providers.d/p.yaml": f"provider: p\nformat: openai-chat\n{more}\n"})
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("    targets: []\n", "duplicate key"),
        ("    aliases: [sim/x]\n", 'names that begin with "sim/" are the simulator\'s'),
        ("    aliases: ['a b']\n", "should match pattern"),
        ("    limits: {context: 10, output: 20}\n", "is larger than limits.context"),
        ("    limits: {context: 0}\n", "should be greater than 0"),
        ("    limits: {context: .nan}\n", "should be a valid integer"),
        ("    timeouts: {idle_s: 0}\n", "should be greater than 0"),
        ("    aliases: [gpt, other]\n  n: {aliases: [other], targets: [{provider: alpha, model: x}]}\n",
         '"other" is also a name of model "m" (models.d/m.yaml:2:3)'),
        ("    aliases: [n]\n  n: {targets: [{provider: alpha, model: x}]}\n",
         'is also a name of model "n" (models.d/m.yaml:6:3)'),
        ("  sim/mine: {targets: [{provider: alpha, model: x}]}\n", "are the simulator's"),
        ("  n: {targets: [{provider: sim, model: sim/echo}]}\n", "the simulator is never a target of a model"),
        ("  n: {strategy: weighted, targets: [{provider: alpha, model: x, weight: 0}]}\n", "weighted needs a target"),
        ("  n: {}\n", "targets: is missing"),
        ("  n: 3\n", "a mapping (key: value) is expected"),
    ],
)  # fmt: skip
def test_a_wrong_model_is_refused(more: str, message: str, folder: Folder) -> None:
    problems = folder.refuse({"providers.d/a.yaml": provider(), "models.d/m.yaml": model(more=more)})
    assert any(message in problem for problem in problems), problems


def test_a_model_without_a_price_is_a_warning(folder: Folder) -> None:
    text = "models:\n  m:\n    targets: [{provider: alpha, model: x}]\n"
    snapshot = folder.load({"providers.d/a.yaml": provider(), "models.d/m.yaml": text})
    assert snapshot.warnings == (
        "models.d/m.yaml:2:3 has no price; its calls are refused (policy: unknown_price: refuse)",
    )


def test_reasoning_models_wait_longer_for_the_first_token_unless_somebody_says_otherwise(
    folder: Folder,
) -> None:
    snapshot = folder.load({
        "providers.d/a.yaml": provider(),
        "policies.d/quick.yaml": "policy: quick\ntimeouts: {first_token_s: 10}",
        "models.d/m.yaml": """
            models:
              plain: {price: {input: "1"}, targets: [{provider: alpha, model: x}]}
              thinks: {extends: plain, capabilities: [chat, reasoning]}
              hurried: {extends: thinks, policy: quick}
              own: {extends: thinks, timeouts: {first_token_s: 7}}
            """,
    })  # fmt: skip
    waits = {
        name: snapshot.models[name].timeouts.first_token_s for name in ("plain", "thinks", "hurried", "own")
    }
    assert waits == {"plain": 30, "thinks": 120, "hurried": 10, "own": 7}


def test_the_simulator_is_there_only_when_it_runs(folder: Folder) -> None:
    off = folder.load({}).providers["sim"]
    assert (off.enabled, off.reason) == (False, "the simulator is off")
    folder.simulator_url = "http://127.0.0.1:45678"
    on = folder.load({}).providers["sim"]
    assert (on.enabled, on.configured, on.base_url) == (True, True, "http://127.0.0.1:45678/v1")
    forbidden = folder.load({"gateway.yaml": "simulator: {enabled: false}"}).providers["sim"]
    assert not forbidden.enabled


def test_a_key_from_the_environment_may_be_a_number(folder: Folder) -> None:
    folder.environ = {"PORT": "8123", "MARKUP": "0.05"}
    snapshot = folder.load({
        "gateway.yaml": "server: {port: '${PORT}'}",
        "policies.d/p.yaml": "policy: p\nbilling: {markup: '${MARKUP}'}",
    })  # fmt: skip
    assert snapshot.server.port == 8123
    assert snapshot.policies["p"].billing.markup == Decimal("0.05")


def test_the_database_url_is_a_secret(folder: Folder) -> None:
    folder.environ = {"DATABASE_URL": "postgresql://u:hush@h/d"}
    settings: Any = folder.load(
        {"gateway.yaml": "redis: {url: redis://x}\ndatabase: {url: '${DATABASE_URL}', grace_s: 5}"}
    ).settings
    assert settings.database.url.reveal() == "postgresql://u:hush@h/d"
    assert "hush" not in repr(settings)
    plain: Any = folder.load({"gateway.yaml": ""}).settings
    assert plain.database.url.reveal() == "postgresql://u:hush@h/d"
    folder.environ = {}
    assert folder.load({"gateway.yaml": "# nothing"}).settings.database.url.reveal() == "embedded"


def test_a_format_of_the_users_own_with_a_broken_template_is_told_with_its_leaf(folder: Folder) -> None:
    text = """
        format: mine
        extends: openai-chat
        request:
          model: "{{ target.model | nonsense }}"
        """
    problems = folder.refuse({"providers.d/_formats/mine.yaml": text})
    assert len(problems) == 1
    assert problems[0].startswith("providers.d/_formats/mine.yaml:4:3 request.model: ")
