"""A provider file's examples run; one that fails keeps the provider out."""

import pytest

from engine.config.examples import list_differences, tell_operation
from engine.config.rehearsal import Asked, show_sent
from engine.config.snapshot import Target
from tests.config.conftest import Folder, provider

HI = "messages: [{role: user, content: hi}]"


def test_an_example_that_holds_loads(folder: Folder) -> None:
    more = f"""
params: {{drop: [logit_bias], rename: {{max_completion_tokens: max_tokens}}, clamp: {{temperature: [0, 2]}}, default: {{top_p: 1}}, force: {{store: false}}}}
headers: {{X-Team: platform}}
examples:
  - given: {{model: m, {HI}, logit_bias: {{}}, max_completion_tokens: 3, temperature: 9, store: true, stream: true}}
    sends:
      path: /chat/completions
      headers: {{x-team: platform}}
      body: {{model: m, {HI}, max_tokens: 3, temperature: 2, top_p: 1, store: false, stream: true, stream_options: {{include_usage: true}}}}
  - answers: {{body: {{usage: {{prompt_tokens: 5, completion_tokens: 2, prompt_tokens_details: {{cached_tokens: 3}}}}}}}}
    reads: {{usage: {{input: 2, cached_input: 3, output: 2}}}}
  - answers: {{status: 400, body: {{error: {{message: too long, code: context_length_exceeded}}}}}}
    reads: {{error: {{message: too long, code: context_length_exceeded, type: null}}}}
"""  # noqa: E501 one body on one line, as in the files
    assert "alpha" in folder.load({"providers.d/a.yaml": provider(more=more)}).providers


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            f"given: {{model: m, {HI}, n: 2}}\n    sends: {{body: {{model: m, {HI}, n: 3}}}}",
            "8:69 examples[0].sends.body.n: is 2",
        ),
        (
            f"given: {{model: m, {HI}}}\n    sends: {{body: {{model: m, {HI}, n: 3}}}}",
            "examples[0].sends.body.n: is not there",
        ),
        (
            f"given: {{model: m, {HI}, n: 3}}\n    sends: {{body: {{model: m, {HI}}}}}",
            "examples[0].sends.body.n: is there too: 3",
        ),
        (
            f"given: {{model: m, {HI}}}\n    sends: {{path: /x, body: {{model: m, {HI}}}}}",
            "sends.path: the path is /chat/completions",
        ),
        (
            f"given: {{model: m, {HI}}}\n    sends: {{headers: {{a: b}}, body: {{model: m, {HI}}}}}",
            "the header is None",
        ),
        ("given: {model: m, input: x}\n    sends: {body: {}}", "the provider does not serve embeddings"),
        (
            "answers: {body: {usage: {prompt_tokens: 5}}}\n    reads: {usage: {input: 4}}",
            "reads.usage.input: is 5",
        ),
        (
            "answers: {status: 400, body: {}}\n    reads: {error: {code: x}}",
            "reads.error.code: what is read is None",
        ),
        ("given: {model: m}", "`given` goes with `sends`"),
        ("operation: chat", "an example needs `given` and `sends`"),
    ],
)
def test_an_example_that_fails_is_a_problem_at_its_line(example: str, message: str, folder: Folder) -> None:
    text = provider(more=f"endpoints: {{embeddings: false}}\nexamples:\n  - {example}\n").lstrip()
    problems = folder.refuse({"providers.d/a.yaml": text})
    assert problems and all(problem.startswith("providers.d/a.yaml:") for problem in problems)
    assert any(message in problem for problem in problems), problems


STREAM = """
      stream: |+
        data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"mull"}}]}

        data: {"id":"1","choices":[{"index":0,"delta":{"content":"hello"}}]}

        data: {"id":"1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"look","arguments":"{}"}}]}}]}

        data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}

        data: [DONE]

"""  # noqa: E501 one event on one line, as on the wire


def test_examples_of_every_kind_that_hold_load(folder: Folder) -> None:
    more = f"""
base_url: "https://{{{{ target.variables.account }}}}.example.com/v1"
variables: {{account: "${{UNSET_ACCOUNT}}"}}
endpoints: {{embeddings: false}}
models: {{path: /models, items: "$.rows[*]", id: "{{{{ row.owner }}}}/{{{{ row.name }}}}", context_length: $.long}}
prefill: {{message: {{prefix: true}}}}
traits: {{more_sampling: true}}
errors: {{statuses: {{"412": "402"}}, inside: $.result.code, message: $.result.text}}
examples:
  - variables: {{account: a1}}
    given: {{model: m, {HI}}}
    sends: {{url: https://a1.example.com/v1/chat/completions, headers: {{authorization: Bearer ***}}}}
  - as: anthropic-messages
    given: {{model: m, max_tokens: 5, top_k: 3, {HI}}}
    sends: {{body: {{model: m, {HI}, max_completion_tokens: 5, top_k: 3}}}}
  - given: {{model: m, {HI}}}
    continues: one
    sends: {{body: {{model: m, messages: [{{role: user, content: hi}}, {{role: assistant, content: one, prefix: true}}]}}}}
  - answers: {STREAM}
    reads: {{text: hello, reasoning: mull, tool_calls: [{{name: look}}], finish: tool_calls, usage: {{input: 9, output: 3}}}}
  - answers: {{status: 412, body: {{error: {{message: suspended}}}}}}
    reads: {{error: {{kind: "402"}}}}
  - answers: {{body: {{result: {{code: 7, text: broken}}}}}}
    reads: {{error: {{message: broken, kind: "502"}}}}
  - answers: {{body: {{rows: [{{owner: a, name: b, long: 7}}, {{other: 1}}]}}}}
    lists: [{{id: a/b, context_length: 7}}, {{id: /}}]
  - lacks: [embeddings, rerank]
"""  # noqa: E501 one body on one line, as in the files
    text = provider(more=more).replace("base_url: https://alpha.example.com/v1\n", "")
    folder.write({"gateway.yaml": "", "providers.d/a.yaml": text})
    loader = folder.loader()
    found = loader.prepare(loader.read(), run_examples=True).providers["alpha"]
    assert not found.configured and "UNSET_ACCOUNT" in found.reason
    assert [str(problem) for problem in loader.list_untouched()] == []


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (f"answers: {STREAM}    reads: {{text: hallo}}", "reads.text: is 'hello'"),
        (
            f"answers: {STREAM}    reads: {{tool_calls: [{{name: find}}]}}",
            "reads.tool_calls[0].name: is 'look'",
        ),
        (f"answers: {STREAM}    reads: {{finish: stop}}", "reads.finish: is 'tool_calls'"),
        (f"answers: {STREAM}    reads: {{usage: {{input: 8, output: 3}}}}", "reads.usage.input: is 9"),
        ("answers: {body: {}}\n    reads: {text: hello}", "reads: no answer is read"),
        (
            "answers: {body: {error: {message: broken}}}\n    reads: {text: a}",
            "reads: an error is read: broken",
        ),
        (
            "answers: {body: {data: []}}\n    lists: [{id: a}]",
            "lists: the provider has no `models` that say how",
        ),
        ("lacks: chat", "lacks: the provider serves chat"),
        (f"as: nothing\n    given: {{model: m, {HI}}}\n    sends: {{}}", 'as: no wire format "nothing"'),
        (
            f"as: anthropic-messages\n    given: {{model: m, max_tokens: a, {HI}}}\n    sends: {{}}",
            "given: ",
        ),
        (
            f"given: {{model: m, {HI}}}\n    sends: {{url: https://x.example}}",
            "sends.url: the address is https://",
        ),
        (
            "answers: {body: {}, stream: a}\n    reads: {text: a}",
            "an answer has a body or a stream, not both",
        ),
    ],
)
def test_what_is_read_otherwise_than_an_example_says_is_told(
    example: str, message: str, folder: Folder
) -> None:
    problems = folder.refuse({"providers.d/a.yaml": provider(more=f"examples:\n  - {example}\n").lstrip()})
    assert any(message in problem for problem in problems), problems


def test_a_leaf_is_touched_only_by_an_example_that_needs_it(folder: Folder) -> None:
    more = f"""
headers: {{x-team: a}}
endpoints: {{embeddings: false, completions: {{path: /old}}}}
models: {{path: /models, name: $.title}}
stream_usage: always
errors: {{kinds: {{"429": {{code: [busy]}}}}}}
params:
  rules:
    - {{models: ["r*"], force: {{store: false}}}}
    - {{models: ["s*"], force: {{store: false}}}}
examples:
  - given: {{model: r1, {HI}}}
    sends: {{body: {{model: r1, {HI}, store: false}}}}
  - answers: {{status: 400, body: {{error: {{message: a, code: busy}}}}}}
    reads: {{error: {{kind: "429"}}}}
"""
    folder.write({"gateway.yaml": "", "providers.d/a.yaml": provider(more=more)})
    loader = folder.loader()
    loader.prepare(loader.read(), run_examples=True)
    assert sorted(problem.path for problem in loader.list_untouched()) == [
        "endpoints.completions.path",
        "endpoints.embeddings",
        "headers.x-team",
        "models.name",
        "models.path",
        "params.rules[1].force.store",
        "params.rules[1].models[0]",
        "stream_usage",
    ]


def test_what_no_example_touches_is_listed(folder: Folder) -> None:
    more = f"""
usage: {{from: [$.usage]}}
params: {{drop: [user, n], clamp: {{temperature: [0, 2]}}, force: {{store: false}}}}
examples:
  - given: {{model: m, {HI}, n: 2}}
    sends: {{body: {{model: m, {HI}, store: false}}}}
"""
    folder.write({"gateway.yaml": "", "providers.d/a.yaml": provider(more=more)})
    loader = folder.loader()
    loader.prepare(loader.read(), run_examples=True)
    assert [problem.path for problem in loader.list_untouched()] == [
        "params.drop[0]",
        "params.clamp.temperature",
        "usage.from[0]",
    ]


def test_secret_headers_are_masked_in_what_is_shown(folder: Folder) -> None:
    folder.environ = {"TEAM": "hush"}
    snapshot = folder.load({"providers.d/a.yaml": provider(more='headers: {x-team: "${TEAM}"}')})
    target = Target(snapshot.providers["alpha"], "m", 1, False, None, None, None)
    asked = Asked("chat", snapshot.surfaces["chat"], {"model": "m", "messages": []}, stream=False)
    sent = show_sent(target, asked)
    assert sent.headers == {"x-team": "***", "authorization": "Bearer ***"}


@pytest.mark.parametrize(
    ("key", "operation"),
    [("messages", "chat"), ("prompt", "completions"), ("input", "embeddings"), ("other", "chat")],
)
def test_the_operation_is_told_from_the_body(key: str, operation: str) -> None:
    assert tell_operation({key: []}) == operation


def test_true_and_one_are_different() -> None:
    assert list(list_differences({"a": [True]}, {"a": [1]})) == [(("a", 0), "is 1")]
    assert list(list_differences([1], [1, 2])) == [((), "is [1, 2]")]
