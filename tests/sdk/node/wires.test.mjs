// Every Node SDK before every provider's wire. Run by tests/sdk/test_node.py, which starts both ends.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Plan, talks } from "./talks.mjs";

const WIRES = process.env.WIRES.split(",");
const IMAGE = "+/+/".repeat(40);
const words = (text) => text.split(/\s+/).filter(Boolean).length;

async function askBothWays(Talk, model, wanted) {
  const answers = [];
  for (const stream of [false, true]) {
    const talk = new Talk(model, wanted);
    talk.say("Hello there.");
    answers.push(await talk.answer(stream));
  }
  assert.deepEqual(answers[1], answers[0]);
  return answers[0];
}

for (const [sdk, Talk] of Object.entries(talks)) {
  for (const wire of WIRES) {
    const named = (what) => `${what}: ${sdk}, ${wire}`;

    test(named("a stream adds up to the plain answer"), async () => {
      const answer = await askBothWays(Talk, `${wire}/sim/tokens@12`);
      assert.deepEqual([words(answer.text), answer.calls, answer.finish, answer.written], [12, [], "stop", 12]);
      assert.ok(answer.read >= 4);
    });

    test(named("thoughts are told"), async () => {
      const answer = await askBothWays(Talk, `${wire}/sim/think@7+tokens@5`, { thoughts: true });
      assert.equal(words(answer.text), 5);
      assert.equal(words(answer.thoughts), new Talk("").showsThoughts ? 7 : 0);
      assert.deepEqual([answer.finish, answer.written], ["stop", 12]);
    });

    for (const stream of [false, true]) {
      for (const thoughts of [false, true]) {
        test(named(`tools over three turns${thoughts ? ", thinking" : ""}${stream ? ", streamed" : ""}`), async () => {
          const model = thoughts ? "sim/tools+think+tokens@9" : "sim/tools+tokens@9";
          const talk = new Talk(`${wire}/${model}`, { tools: true, thoughts });
          for (const question of ["How is it in Rome?", "And in Oslo?"]) {
            talk.say(question);
            const called = await talk.answer(stream);
            assert.deepEqual([called.calls.map(([name]) => name), called.finish], [["weather", "clock"], "tool_calls"]);
            assert.deepEqual(Object.keys(called.calls[0][1]).toSorted(), ["city", "days"]);
            talk.giveResults();
            const answer = await talk.answer(stream);
            assert.deepEqual([words(answer.text), answer.calls, answer.finish], [9, [], "stop"]);
          }
        });
      }
    }

    test(named("an image arrives"), async () => {
      const talk = new Talk(`${wire}/sim/tokens@3`);
      talk.say("What is this?", IMAGE);
      assert.ok((await talk.answer(false)).read >= 85);
    });

    test(named("an answer keeps to a schema"), async () => {
      const talk = new Talk(`${wire}/sim/json+tools`); // some ask for a schema as the input of a tool
      talk.say("Make a plan.");
      assert.ok(Plan.parse(await talk.parse()));
    });

    test(named("refusals are the SDK's own errors"), async () => {
      for (const [model, status] of [["400", 400], ["context-length", 400], ["500", 502], ["503", 503]]) {
        for (const stream of [false, true]) {
          const talk = new Talk(`${wire}/sim/${model}`);
          talk.say("Hello there.");
          await assert.rejects(talk.answer(stream), (error) => {
            assert.ok(error instanceof Talk.errors[status], `${error}`);
            const { status: found, id } = Talk.read(error);
            assert.equal(found, status);
            assert.ok(id && error.message.length > 10);
            return true;
          });
        }
      }
    });

    test(named("an error inside a stream is thrown"), async () => {
      for (const model of ["error-in-stream@5", "cut@5"]) {
        const talk = new Talk(`${wire}/sim/${model}+tokens@9+chunk-ms@4`);
        talk.say("Hello there.");
        await assert.rejects(talk.answer(true), (error) => Talk.isBroken(error));
      }
    });
  }
}

after(() => setTimeout(() => process.exit(), 200).unref());
