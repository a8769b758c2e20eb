// The official Node SDK takes the gateway for the real thing. Run by tests/sdk/test_node.py, which starts both ends.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import OpenAI from "openai";

const { GATEWAY_URL, GATEWAY_KEY, SIMULATOR_URL } = process.env;
const client = new OpenAI({ apiKey: GATEWAY_KEY, baseURL: `${GATEWAY_URL}/v1`, maxRetries: 0 });
const messages = [{ role: "user", content: "hello there" }];
const GONE_WITHIN_MS = 250;

function tool(name, properties = {}) {
  const parameters = { type: "object", properties, required: Object.keys(properties) };
  return { type: "function", function: { name, parameters } };
}
const tools = [
  tool("weather", { city: { type: "string" }, days: { type: "integer", minimum: 3 } }),
  tool("clock"),
];

const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

// What differs from call to call, and what only one of the two ways of asking has, is left out.
function compare(completion) {
  const { id, created, object, usage, ...told } = JSON.parse(JSON.stringify(completion));
  for (const choice of told.choices) {
    delete choice.message.parsed;
    for (const call of choice.message.tool_calls ?? []) {
      delete call.index;
      delete call.function.parsed_arguments;
    }
    for (const name of Object.keys(choice.message)) {
      if (choice.message[name] === null || choice.message[name]?.length === 0) delete choice.message[name];
    }
    if (choice.logprobs == null) delete choice.logprobs;
    else for (const name of Object.keys(choice.logprobs)) choice.logprobs[name] ??= null;
  }
  return told;
}

// The one call that the upstream saw of a model, once the client has left it.
async function seeClosed(model) {
  for (let tries = 0; tries < 250; tries++) {
    const answer = await fetch(`${SIMULATOR_URL}/_sim/calls?model=${encodeURIComponent(model)}`);
    const { calls } = await answer.json();
    if (calls.length === 1 && calls[0].client_closed_after_ms !== null) return calls[0];
    await sleep(20);
  }
  assert.fail(`${model} was not let go`);
}

test("a plain answer has text, usage and the contract's headers", async () => {
  const { data, response, request_id } = await client.chat.completions
    .create({ model: "teller", messages })
    .withResponse();
  assert.equal(data.choices[0].message.content.split(" ").length, 12);
  assert.equal(data.usage.completion_tokens, 12);
  assert.equal(response.headers.get("x-provider"), "up");
  assert.equal(response.headers.get("x-model"), data.model);
  assert.equal(response.headers.get("x-requested-model"), "teller");
  assert.equal(response.headers.get("x-cost-usd"), "0.000027");
  assert.equal(request_id, response.headers.get("x-request-id"));
  assert.equal(data._request_id, request_id);
});

test("a stream says what the plain answer says", async () => {
  const plain = await client.chat.completions.create({ model: "up/sim/words", messages });
  let text = "";
  let last;
  for await (const chunk of await client.chat.completions.create({ model: "up/sim/words", messages, stream: true })) {
    assert.equal(chunk.choices.length, 1);
    assert.equal(chunk.usage ?? null, null);
    text += chunk.choices[0].delta.content ?? "";
    last = chunk.choices[0].finish_reason;
  }
  assert.equal(text, plain.choices[0].message.content);
  assert.equal(last, "stop");
});

test("usage is the last chunk when it is asked for", async () => {
  const stream_options = { include_usage: true };
  const stream = await client.chat.completions.create({ model: "up/sim/tokens@7", messages, stream: true, stream_options });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 7);
});

const accumulated = {
  text: { model: "up/sim/tokens@20" },
  "parallel tools": { model: "up/sim/tools", tools },
  "three choices": { model: "up/sim/tokens@5", n: 3 },
  "log probabilities": { model: "up/sim/tokens@5", logprobs: true, top_logprobs: 2 },
};
for (const [name, body] of Object.entries(accumulated)) {
  test(`the SDK's own accumulator arrives at the plain answer: ${name}`, async () => {
    const plain = await client.chat.completions.create({ messages, ...body });
    const streamed = await client.chat.completions.stream({ messages, ...body }).finalChatCompletion();
    assert.deepEqual(compare(streamed), compare(plain));
  });
}

test("tool arguments come in fragments that add up, and results are understood", async () => {
  const plain = await client.chat.completions.create({ model: "up/sim/tools", messages, tools });
  const fragments = { 0: [], 1: [] };
  for await (const chunk of await client.chat.completions.create({ model: "up/sim/tools", messages, tools, stream: true })) {
    for (const call of chunk.choices[0].delta.tool_calls ?? []) fragments[call.index].push(call.function.arguments ?? "");
  }
  const { message } = plain.choices[0];
  assert.ok(fragments[0].length > 2);
  assert.deepEqual(
    message.tool_calls.map((call) => call.function.arguments),
    [fragments[0].join(""), fragments[1].join("")],
  );
  const results = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "sunny" }));
  const then = await client.chat.completions.create({ model: "up/sim/tools", messages: [...messages, message, ...results], tools });
  assert.equal(then.choices[0].finish_reason, "stop");
});

test("tools are run by the SDK's runner", async () => {
  const asked = [];
  const run = (name) => ({ ...tool(name).function, function: () => (asked.push(name), "sunny") });
  const runner = client.chat.completions.runTools({
    model: "up/sim/tools",
    messages,
    tools: ["weather", "clock"].map((name) => ({ type: "function", function: run(name) })),
  });
  assert.ok(await runner.finalContent());
  assert.deepEqual(asked.toSorted(), ["clock", "weather"]);
});

test("a JSON schema is obeyed, plain and streamed", async () => {
  const schema = {
    type: "object",
    properties: { steps: { type: "array", items: { type: "string" }, minItems: 2 }, count: { type: "integer", minimum: 10 } },
    required: ["steps", "count"],
    additionalProperties: false,
  };
  const response_format = { type: "json_schema", json_schema: { name: "plan", schema, strict: true } };
  const plain = await client.chat.completions.parse({ model: "up/sim/json", messages, response_format });
  const plan = JSON.parse(plain.choices[0].message.content);
  assert.ok(plan.count >= 10 && plan.steps.length >= 2);
  const streamed = await client.chat.completions.stream({ model: "up/sim/json", messages, response_format }).finalContent();
  assert.deepEqual(JSON.parse(streamed), plan);
});

test("image parts arrive and are counted", async () => {
  const url = `data:image/png;base64,${"QUJD".repeat(20_000)}`;
  const content = [{ type: "text", text: "what is this" }, { type: "image_url", image_url: { url } }];
  const answer = await client.chat.completions.create({ model: "up/sim/words", messages: [{ role: "user", content }] });
  assert.equal(answer.usage.prompt_tokens, 3 + 1 + 85);
});

test("completions answer and stream", async () => {
  const plain = await client.completions.create({ model: "up/sim/tokens@5", prompt: "one" });
  let text = "";
  for await (const chunk of await client.completions.create({ model: "up/sim/tokens@5", prompt: "one", stream: true })) {
    text += chunk.choices[0].text;
  }
  assert.equal(text, plain.choices[0].text);
});

test("embeddings come in either encoding", async () => {
  const packed = await client.embeddings.create({ model: "up/sim/words", input: ["a b", "c"], dimensions: 64 });
  assert.deepEqual(packed.data.map((row) => row.embedding.length), [64, 64]);
  const plain = await client.embeddings.create({ model: "up/sim/words", input: "a b", dimensions: 64, encoding_format: "float" });
  plain.data[0].embedding.forEach((one, place) => assert.ok(Math.abs(one - packed.data[0].embedding[place]) < 1e-6));
});

test("models are listed and retrieved", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.ok(names.includes("story-teller"));
  assert.equal((await client.models.retrieve("story-teller")).id, "story-teller");
  await assert.rejects(client.models.retrieve("storyteller"), (error) => error instanceof OpenAI.NotFoundError && /story-teller/.test(error.message));
});

const refusals = [
  ["up/sim/400", OpenAI.BadRequestError, 400],
  ["up/sim/context-length", OpenAI.BadRequestError, 400, "context_length_exceeded"],
  ["up/sim/content-filter", OpenAI.BadRequestError, 400, "content_filter"],
  ["storyteller", OpenAI.NotFoundError, 404, "model_not_found"],
  ["unpriced/sim/echo", OpenAI.UnprocessableEntityError, 422, "model_pricing_missing"],
  ["limiting/sim/429@1s", OpenAI.RateLimitError, 429, "provider_rate_limited"],
  ["up/sim/500", OpenAI.InternalServerError, 502],
  ["up/sim/503", OpenAI.InternalServerError, 503],
  ["down/anything", OpenAI.InternalServerError, 502],
];
for (const [model, kind, status, code] of refusals) {
  test(`a refusal is the SDK's own error: ${model}`, async () => {
    for (const stream of [false, true]) {
      await assert.rejects(client.chat.completions.create({ model, messages, stream }), (error) => {
        assert.ok(error instanceof kind, `${error}`);
        assert.equal(error.status, status);
        if (code) assert.equal(error.code, code);
        assert.ok(error.requestID);
        return true;
      });
    }
  });
}

test("a wrong key is an authentication error", async () => {
  const stranger = new OpenAI({ apiKey: `gw_test_${"x".repeat(43)}`, baseURL: `${GATEWAY_URL}/v1`, maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("an error within a stream is thrown after what came before it", async () => {
  let count = 0;
  await assert.rejects(
    async () => {
      const stream = await client.chat.completions.create({ model: "up/sim/cut@20+tokens@30", messages, stream: true });
      for await (const _ of stream) count++;
    },
    (error) => error instanceof OpenAI.APIError && /broke off/.test(error.message),
  );
  assert.ok(count >= 20);
});

for (const [model, stream] of [["silent+tokens@11", false], ["silent+tokens@12", true], ["slow@32s", false]]) {
  test(`a client that times out frees the upstream: ${model}`, async () => {
    const began = Date.now();
    const asked = client.chat.completions.create({ model: `up/sim/${model}`, messages, stream }, { timeout: 400 });
    await assert.rejects(asked, OpenAI.APIConnectionTimeoutError);
    const left = Date.now();
    const call = await seeClosed(`sim/${model}`);
    assert.ok(call.client_closed_after_ms < left - began + GONE_WITHIN_MS, `${call.client_closed_after_ms}`);
  });
}

test("an aborted stream frees the upstream", async () => {
  const began = Date.now();
  const model = "sim/chunk-ms@23+tokens@5000";
  const stream = await client.chat.completions.create({ model: `up/${model}`, messages, stream: true });
  let count = 0;
  let left;
  for await (const _ of stream) {
    if (++count === 5) {
      left = Date.now();
      stream.controller.abort();
    }
  }
  const call = await seeClosed(model);
  assert.ok(call.client_closed_after_ms < left - began + GONE_WITHIN_MS);
  assert.ok(call.tokens_sent < 100);
});

test("a plain call aborted by its signal frees the upstream", async () => {
  const began = Date.now();
  const gone = new AbortController();
  setTimeout(() => gone.abort(), 300);
  const asked = client.chat.completions.create({ model: "up/sim/slow@33s", messages }, { signal: gone.signal });
  await assert.rejects(asked, OpenAI.APIUserAbortError);
  const left = Date.now();
  const call = await seeClosed("sim/slow@33s");
  assert.ok(call.client_closed_after_ms < left - began + GONE_WITHIN_MS);
});

after(() => setTimeout(() => process.exit(), 200).unref());
