// A conversation as an application holds it with one SDK: what the SDK gave is kept and handed back as it is.
import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;

const { GATEWAY_URL, GATEWAY_KEY } = process.env;
const SYSTEM = "Be brief.";
export const RESULT = "It is fine.";
const MAX_OUTPUT = 4000;
const THINKING_BUDGET = 2000;
export const Plan = z.object({ title: z.string(), steps: z.array(z.string()), done: z.boolean() });

const described = Object.entries({ weather: { city: { type: "string" }, days: { type: "integer" } }, clock: {} }).map(
  ([name, properties]) => ({ name, schema: { type: "object", properties, required: Object.keys(properties) } }),
);
const join = (blocks, key) => blocks.map((block) => block[key]).join("");
const told = (text, thoughts, calls, finish, read, written) => ({ text, thoughts, calls, finish, read, written });

// wanted: { tools, thoughts, limit }. `answer` puts the answer into the conversation.
class Talk {
  showsThoughts = true;
  turns = [];
  calls = [];
  constructor(model, wanted = {}) {
    this.model = model;
    this.wanted = { limit: MAX_OUTPUT, ...wanted };
  }
}

const openai = new OpenAI({ apiKey: GATEWAY_KEY, baseURL: `${GATEWAY_URL}/v1`, maxRetries: 0 });

class OpenAITalk extends Talk {
  static isBroken = (error) => error instanceof OpenAI.APIError;
  static errors = { 400: OpenAI.BadRequestError, 502: OpenAI.InternalServerError, 503: OpenAI.InternalServerError };
  static read(error) {
    return { status: error.status, id: error.requestID };
  }
}

class ChatTalk extends OpenAITalk {
  turns = [{ role: "system", content: SYSTEM }];
  say(text, image) {
    const content = image && [
      { type: "text", text },
      { type: "image_url", image_url: { url: `data:image/png;base64,${image}` } },
    ];
    this.turns.push({ role: "user", content: content ?? text });
  }
  ask() {
    const asked = { model: this.model, messages: this.turns, max_completion_tokens: this.wanted.limit };
    if (this.wanted.tools) asked.tools = described.map(({ name, schema }) => ({ type: "function", function: { name, parameters: schema } }));
    if (this.wanted.thoughts) asked.reasoning_effort = "medium";
    return asked;
  }
  async answer(stream) {
    let whole;
    let thoughts = ""; // the SDK's accumulator keeps but the last piece of them
    if (stream) {
      const asked = openai.chat.completions.stream({ ...this.ask(), stream_options: { include_usage: true } });
      asked.on("chunk", ({ choices }) => (thoughts += choices[0]?.delta.reasoning_content ?? ""));
      whole = await asked.finalChatCompletion();
    } else {
      whole = await openai.chat.completions.create(this.ask());
      thoughts = whole.choices[0].message.reasoning_content ?? "";
    }
    const [{ message, finish_reason }] = whole.choices;
    this.turns.push(message);
    this.calls = message.tool_calls ?? [];
    const calls = this.calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
    const { prompt_tokens, completion_tokens } = whole.usage;
    return told(message.content ?? "", thoughts, calls, finish_reason, prompt_tokens, completion_tokens);
  }
  giveResults() {
    for (const call of this.calls) this.turns.push({ role: "tool", tool_call_id: call.id, content: RESULT });
  }
  async parse() {
    const whole = await openai.chat.completions.parse({ ...this.ask(), response_format: zodResponseFormat(Plan, "plan") });
    return whole.choices[0].message.parsed;
  }
}
class ResponsesTalk extends OpenAITalk {
  say(text, image) {
    const content = image && [
      { type: "input_text", text },
      { type: "input_image", image_url: `data:image/png;base64,${image}`, detail: "auto" },
    ];
    this.turns.push({ role: "user", content: content ?? text });
  }
  ask() {
    const asked = { model: this.model, input: this.turns, instructions: SYSTEM, max_output_tokens: this.wanted.limit, store: false };
    if (this.wanted.tools) asked.tools = described.map(({ name, schema }) => ({ type: "function", name, parameters: schema, strict: false }));
    if (this.wanted.thoughts) Object.assign(asked, { reasoning: { effort: "medium", summary: "auto" }, include: ["reasoning.encrypted_content"] });
    return asked;
  }
  async answer(stream) {
    const whole = stream ? await openai.responses.stream(this.ask()).finalResponse() : await openai.responses.create(this.ask());
    this.turns.push(...whole.output);
    this.calls = whole.output.filter((item) => item.type === "function_call");
    const thoughts = whole.output.filter((item) => item.type === "reasoning").flatMap((item) => item.summary);
    const calls = this.calls.map((call) => [call.name, JSON.parse(call.arguments)]);
    const finish = calls.length ? "tool_calls" : whole.status === "completed" ? "stop" : "length";
    return told(whole.output_text, join(thoughts, "text"), calls, finish, whole.usage.input_tokens, whole.usage.output_tokens);
  }
  giveResults() {
    for (const call of this.calls) this.turns.push({ type: "function_call_output", call_id: call.call_id, output: RESULT });
  }
  async parse() {
    return (await openai.responses.parse({ ...this.ask(), text: { format: zodTextFormat(Plan, "plan") } })).output_parsed;
  }
}

const anthropic = new Anthropic({ apiKey: GATEWAY_KEY, baseURL: GATEWAY_URL, maxRetries: 0 });
const STOPS = { end_turn: "stop", max_tokens: "length", tool_use: "tool_calls" };

class AnthropicTalk extends Talk {
  static isBroken = (error) => error instanceof Anthropic.APIError;
  static errors = { 400: Anthropic.BadRequestError, 502: Anthropic.InternalServerError, 503: Anthropic.InternalServerError };
  static read(error) {
    return { status: error.status, id: error.requestID };
  }
  say(text, image) {
    const source = { type: "base64", media_type: "image/png", data: image };
    this.turns.push({ role: "user", content: image ? [{ type: "text", text }, { type: "image", source }] : text });
  }
  ask() {
    const asked = { model: this.model, system: SYSTEM, messages: this.turns, max_tokens: this.wanted.limit };
    if (this.wanted.tools) asked.tools = described.map(({ name, schema }) => ({ name, input_schema: schema }));
    if (this.wanted.thoughts) asked.thinking = { type: "enabled", budget_tokens: THINKING_BUDGET };
    return asked;
  }
  async answer(stream) {
    const whole = stream ? await anthropic.messages.stream(this.ask()).finalMessage() : await anthropic.messages.create(this.ask());
    this.turns.push({ role: "assistant", content: whole.content });
    const of = (type) => whole.content.filter((block) => block.type === type);
    this.calls = of("tool_use");
    const { usage } = whole;
    const read = usage.input_tokens + (usage.cache_read_input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0);
    const calls = this.calls.map((call) => [call.name, call.input]);
    return told(join(of("text"), "text"), join(of("thinking"), "thinking"), calls, STOPS[whole.stop_reason], read, usage.output_tokens);
  }
  giveResults() {
    const content = this.calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: RESULT }));
    this.turns.push({ role: "user", content });
  }
  async parse() {
    const output_config = { format: { type: "json_schema", schema: z.toJSONSchema(Plan) } };
    const whole = await anthropic.messages.create({ ...this.ask(), output_config });
    return Plan.parse(JSON.parse(whole.content[0].text));
  }
}

const FINISH = { "tool-calls": "tool_calls" };

// The AI SDK: one talk for all of its models; `make` and `options` are the model's.
class VercelTalk extends Talk {
  static isBroken = (error) => Boolean(error.message ?? error.error?.message); // what the wire said, as it was
  static errors = { 400: APICallError, 502: APICallError, 503: APICallError };
  static read(error) {
    return { status: error.statusCode, id: error.responseHeaders["x-request-id"] };
  }
  say(text, image) {
    const content = image && [
      { type: "text", text },
      { type: "image", image, mediaType: "image/png" },
    ];
    this.turns.push({ role: "user", content: content ?? text });
  }
  ask() {
    const asked = { model: this.make(), system: SYSTEM, messages: this.turns, maxOutputTokens: this.wanted.limit, maxRetries: 0 };
    if (this.wanted.tools) {
      asked.tools = Object.fromEntries(described.map(({ name, schema }) => [name, tool({ inputSchema: jsonSchema(schema) })]));
      asked.stopWhen = stepCountIs(1);
    }
    if (this.wanted.thoughts) asked.providerOptions = this.options;
    return asked;
  }
  async answer(stream) {
    let failed;
    const asked = stream ? streamText({ ...this.ask(), onError: ({ error }) => (failed = error) }) : await generateText(this.ask());
    if (stream) {
      await asked.consumeStream();
      if (failed) throw failed;
    }
    const [response, text, thoughts, calls, finish, usage] = await Promise.all([
      asked.response, asked.text, asked.reasoningText, asked.toolCalls, asked.finishReason, asked.usage,
    ]); // prettier-ignore
    this.turns.push(...response.messages);
    this.calls = calls;
    return told(text, thoughts ?? "", calls.map((call) => [call.toolName, call.input]), FINISH[finish] ?? finish, usage.inputTokens, usage.outputTokens);
  }
  giveResults() {
    const content = this.calls.map(({ toolCallId, toolName }) => ({
      type: "tool-result", toolCallId, toolName, output: { type: "text", value: RESULT },
    })); // prettier-ignore
    this.turns.push({ role: "tool", content });
  }
  async parse() {
    return (await generateObject({ ...this.ask(), schema: Plan })).object;
  }
}

const vercelOpenAI = createOpenAI({ apiKey: GATEWAY_KEY, baseURL: `${GATEWAY_URL}/v1` });
const vercelAnthropic = createAnthropic({ apiKey: GATEWAY_KEY, baseURL: `${GATEWAY_URL}/v1` });

class VercelChatTalk extends VercelTalk {
  showsThoughts = false; // of chat completions it reads none
  options = { openai: { reasoningEffort: "medium", forceReasoning: true } };
  make = () => vercelOpenAI.chat(this.model);
}

// Unless told otherwise it names what was answered before by ids alone; the simulator, asked by its own wire, keeps nothing.
class VercelResponsesTalk extends VercelTalk {
  ask() {
    const { store, ...asked } = { store: !this.model.startsWith("responses/"), ...super.ask() };
    return { providerOptions: { openai: { store } }, ...asked };
  }
  options = { openai: { reasoningEffort: "medium", reasoningSummary: "auto", forceReasoning: true, store: false, include: ["reasoning.encrypted_content"] } };
  make = () => vercelOpenAI.responses(this.model);
}

class VercelAnthropicTalk extends VercelTalk {
  options = { anthropic: { thinking: { type: "enabled", budgetTokens: THINKING_BUDGET } } };
  make = () => vercelAnthropic(this.model);
}

export const talks = {
  "openai chat": ChatTalk,
  "openai responses": ResponsesTalk,
  anthropic: AnthropicTalk,
  "ai openai chat": VercelChatTalk,
  "ai openai responses": VercelResponsesTalk,
  "ai anthropic": VercelAnthropicTalk,
};
