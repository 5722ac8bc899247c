// npm "@openai/agents".
import { Agent, hostedMcpTool, OpenAIConversationsSession, OpenAIResponsesModel, Runner, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

setTracingDisabled(true);

const weather = tool({
  name: "weather",
  description: "The weather in a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `rain in ${city}`,
});

function setUp(url, members = {}) {
  const client = new OpenAI({ baseURL: url, apiKey: "key", maxRetries: 0, timeout: 10_000 });
  const model = new OpenAIResponsesModel(client, "tiny");
  const agent = new Agent({ name: "Bot", instructions: "Help.", model, tools: [weather], ...members });
  const runner = new Runner({ tracingDisabled: true });
  const run = async (input, { stream, ...options } = {}) => {
    if (!stream) return runner.run(agent, input, options);
    const result = await runner.run(agent, input, { ...options, stream: true });
    for await (const _ of result);
    await result.completed;
    return result;
  };
  return { client, agent, run };
}

export async function simple({ url }) {
  const { run } = setUp(url);
  const result = await run("hello");
  return { text: result.finalOutput, usage: result.rawResponses[0].usage };
}

export async function toolLoop({ url, stream }) {
  const { run } = setUp(url);
  const first = await run("Weather?", { stream });
  const second = await run([...first.history, { role: "user", content: "Thanks." }], { stream });
  return [first.finalOutput, second.finalOutput];
}

export async function previousResponse({ url, stream }) {
  const { run } = setUp(url);
  const first = await run("Weather?", { stream });
  const second = await run("Thanks.", { stream, previousResponseId: first.lastResponseId });
  return second.finalOutput;
}

export async function conversation({ url, stream }) {
  const { client, run } = setUp(url);
  const { id } = await client.conversations.create();
  await run("Weather?", { stream, conversationId: id });
  const { finalOutput } = await run("Thanks.", { stream, conversationId: id });
  const types = [];
  for await (const item of client.conversations.items.list(id, { order: "asc" })) types.push(item.type);
  return { finalOutput, types };
}

export async function session({ url, stream }) {
  const { client, run } = setUp(url);
  const session = new OpenAIConversationsSession({ client });
  await run("Weather?", { stream, session });
  const { finalOutput } = await run("Thanks.", { stream, session });
  const items = await session.getItems();
  const popped = await session.popItem();
  const left = (await session.getItems()).length;
  await session.clearSession();
  return { finalOutput, types: items.map((item) => item.type), popped: popped.role, left };
}

export async function streamed({ url }) {
  const { agent } = setUp(url);
  const result = await new Runner({ tracingDisabled: true }).run(agent, "Weather?", { stream: true });
  const names = [];
  let text = "";
  for await (const event of result) {
    if (event.type === "run_item_stream_event") names.push(event.name);
    if (event.type === "raw_model_stream_event" && event.data.type === "output_text_delta") text += event.data.delta;
  }
  await result.completed;
  return { names, text, finalOutput: result.finalOutput };
}

export async function structured({ url }) {
  const { run } = setUp(url, { outputType: z.object({ name: z.string() }), tools: [] });
  return (await run("Where?")).finalOutput;
}

export async function failure({ url }) {
  await setUp(url).run("hi", { previousResponseId: "resp_x" });
}

export async function hosted({ url, server, stream, approve }) {
  const options = { serverLabel: "calc", serverUrl: server };
  const asks = { requireApproval: "always", onApproval: async () => ({ approve }) };
  const tools = [hostedMcpTool(approve === undefined ? options : { ...options, ...asks })];
  const { run } = setUp(url, { tools });
  return (await run("1 + 2?", { stream })).finalOutput;
}
