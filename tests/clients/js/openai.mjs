// npm "openai".
import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const open = (url, options = {}) => new OpenAI({ baseURL: url, apiKey: "key", maxRetries: 0, timeout: 10_000, ...options });
const model = "tiny";
const weather = {
  type: "function",
  name: "weather",
  description: "The weather in a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
  strict: true,
};

async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

export async function create({ url, ...members }) {
  const client = open(url);
  const created = await client.responses.create({ model, ...members });
  const retrieved = members.store === false ? null : await client.responses.retrieve(created.id);
  return { created, retrieved, text: created.output_text, requestId: created._request_id };
}

export async function chain({ url }) {
  const client = open(url);
  const first = await client.responses.create({ model, input: "one" });
  const second = await client.responses.create({ model, input: "two", previous_response_id: first.id });
  await client.responses.delete(first.id);
  const third = await client.responses.create({ model, input: "three", previous_response_id: second.id });
  const items = await all(client.responses.inputItems.list(third.id, { limit: 2 }));
  return { text: third.output_text, items: items.map((item) => item.content[0].text) };
}

export async function events({ url, ...members }) {
  return all(await open(url).responses.create({ model, stream: true, ...members }));
}

export async function streamHelper({ url, ...members }) {
  const client = open(url);
  const stream = client.responses.stream({ model, ...members });
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  const final = await stream.finalResponse();
  return { text, final, stored: await client.responses.retrieve(final.id) };
}

export async function resume({ url, after }) {
  const client = open(url);
  const stream = await client.responses.create({ model, input: "go", background: true, stream: true });
  let id, cursor;
  for await (const event of stream) {
    if (event.type === "response.created") id = event.response.id;
    cursor = event.sequence_number;
    if (cursor === after) break;
  }
  const rest = await all(await client.responses.retrieve(id, { stream: true, starting_after: cursor }));
  const again = client.responses.stream({ response_id: id, starting_after: cursor });
  const final = await again.finalResponse();
  return { rest, text: final.output_text };
}

export async function background({ url }) {
  const client = open(url);
  let response = await client.responses.create({ model, input: "go", background: true });
  const first = response.status;
  while (["queued", "in_progress"].includes(response.status)) {
    await new Promise((done) => setTimeout(done, 20));
    response = await client.responses.retrieve(response.id);
  }
  return { first, last: response.status, text: response.output_text };
}

export async function cancel({ url }) {
  const client = open(url);
  const response = await client.responses.create({ model, input: "go", background: true });
  return [await client.responses.cancel(response.id), await client.responses.cancel(response.id)].map((r) => r.status);
}

export async function parse({ url }) {
  const City = z.object({ name: z.string() });
  const text = { format: zodTextFormat(City, "city") };
  const response = await open(url).responses.parse({ model, input: "Where?", text });
  return response.output_parsed;
}

export async function parseTool({ url }) {
  const tools = [zodResponsesFunction({ name: "weather", parameters: z.object({ city: z.string() }) })];
  const response = await open(url).responses.parse({ model, input: "Where?", tools });
  return response.output[0].parsed_arguments;
}

export async function toolLoop({ url, replay }) {
  const client = open(url);
  const question = { role: "user", content: "Weather?" };
  const first = await client.responses.create({ model, input: [question], tools: [weather] });
  const call = first.output.find((item) => item.type === "function_call");
  const output = { type: "function_call_output", call_id: call.call_id, output: "rain" };
  const more = replay
    ? { input: [question, ...first.output, output] }
    : { input: [output], previous_response_id: first.id };
  const second = await client.responses.create({ model, tools: [weather], ...more });
  return second.output_text;
}

export async function conversations({ url }) {
  const client = open(url);
  const made = await client.conversations.create({ metadata: { topic: "tea" }, items: [{ role: "user", content: "zero" }] });
  const updated = await client.conversations.update(made.id, { metadata: { topic: "rye" } });
  const added = await client.conversations.items.create(made.id, {
    items: ["1", "2", "3"].map((content) => ({ role: "user", content })),
  });
  const response = await client.responses.create({ model, input: "hello", conversation: made.id });
  const listed = await all(client.conversations.items.list(made.id, { limit: 2 }));
  const one = await client.conversations.items.retrieve(added.data[1].id, { conversation_id: made.id });
  await client.conversations.items.delete(one.id, { conversation_id: made.id });
  const left = await all(client.conversations.items.list(made.id, { order: "asc" }));
  const deleted = await client.conversations.delete(made.id);
  const texts = (items) => items.map((item) => item.content[0].text);
  return { updated, named: response.conversation, listed: texts(listed), one: texts([one]), left: texts(left), deleted, id: made.id };
}

export async function failure({ url, call, given }) {
  const client = open(url);
  const [resource, method] = call.split(".");
  await client[resource][method](...given);
}

export async function retries({ url }) {
  return (await open(url, { maxRetries: 1 }).responses.create({ model, input: "hi" })).output_text;
}
