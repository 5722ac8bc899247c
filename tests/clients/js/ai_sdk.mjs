// npm "ai" with "@ai-sdk/openai", which speaks the Responses API by default.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import { z } from "zod";

const weather = tool({
  description: "The weather in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `rain in ${city}`,
});

function setUp(url, options = {}) {
  const provider = createOpenAI({ baseURL: url, apiKey: "key" });
  return {
    model: provider("tiny"),
    maxRetries: 0,
    tools: { weather },
    stopWhen: isStepCount(5),
    providerOptions: { openai: options },
  };
}

async function generate({ url, stream, options, ...prompt }) {
  const settings = { ...setUp(url, options), ...prompt };
  if (!stream) {
    const result = await generateText(settings);
    return { text: result.text, steps: result.steps, messages: result.responseMessages ?? result.response.messages };
  }
  const errors = [];
  const result = streamText({ ...settings, onError: ({ error }) => errors.push(error) });
  let text = "";
  for await (const delta of result.textStream) text += delta;
  if (errors.length) throw errors[0];
  return { text, steps: await result.steps, messages: await (result.responseMessages ?? (await result.response).messages) };
}

const told = ({ text, steps }) => ({
  text,
  steps: steps.length,
  id: steps.at(-1).providerMetadata.openai.responseId,
  outputTokens: steps.at(-1).usage.outputTokens,
});

export async function simple(given) {
  return told(await generate({ ...given, prompt: "hello", instructions: "Help." }));
}

export async function toolLoop(given) {
  return told(await generate({ ...given, prompt: "Weather?" }));
}

export async function turns(given) {
  const messages = [{ role: "user", content: "Weather?" }];
  const first = await generate({ ...given, messages });
  messages.push(...first.messages, { role: "user", content: "Thanks." });
  return told(await generate({ ...given, messages }));
}

export async function previousResponse(given) {
  const first = await generate({ ...given, prompt: "one" });
  const options = { previousResponseId: told(first).id };
  return told(await generate({ ...given, options, prompt: "two" }));
}

async function call(url, method, path, body) {
  const answer = await fetch(`${url}${path}`, {
    method,
    headers: { "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  return answer.json();
}

export async function conversation(given) {
  const { id } = await call(given.url, "POST", "/conversations", {});
  const options = { conversation: id };
  const first = await generate({ ...given, options, prompt: "Weather?" });
  const second = await generate({ ...given, options, prompt: "Thanks." });
  const { data } = await call(given.url, "GET", `/conversations/${id}/items?order=asc&limit=100`);
  return { first: told(first), second: told(second), items: data };
}

export async function structured({ url }) {
  const { tools: _, ...settings } = setUp(url);
  const output = Output.object({ schema: z.object({ name: z.string() }) });
  return (await generateText({ ...settings, prompt: "Where?", output })).output;
}

export async function failure(given) {
  await generate({ ...given, prompt: "hi" });
}

function hosted({ url, server, approval }) {
  const provider = createOpenAI({ baseURL: url, apiKey: "key" });
  const mcp = provider.tools.mcp({ serverLabel: "calc", serverUrl: server, requireApproval: approval });
  return { model: provider("tiny"), maxRetries: 0, tools: { mcp }, stopWhen: isStepCount(5) };
}

async function hostedAnswer({ stream, ...given }, messages) {
  if (!stream) {
    const result = await generateText({ ...hosted(given), messages });
    return { text: result.text, content: result.content, messages: result.response.messages };
  }
  const errors = [];
  const result = streamText({ ...hosted(given), messages, onError: ({ error }) => errors.push(error) });
  for await (const _ of result.textStream);
  if (errors.length) throw errors[0];
  return { text: await result.text, content: await result.content, messages: (await result.response).messages };
}

export async function hostedTool(given) {
  const messages = [{ role: "user", content: "1 + 2?" }];
  const first = await hostedAnswer({ ...given, approval: "never" }, messages);
  messages.push(...first.messages, { role: "user", content: "Thanks." });
  const second = await hostedAnswer({ ...given, approval: "never" }, messages);
  return [first.text, second.text];
}

export async function hostedApproval({ approve, ...given }) {
  const messages = [{ role: "user", content: "1 + 2?" }];
  const first = await hostedAnswer({ ...given, approval: "always" }, messages);
  const request = first.content.find((part) => part.type === "tool-approval-request");
  messages.push(...first.messages, {
    role: "tool",
    content: [
      { type: "tool-approval-response", approvalId: request.approvalId, approved: approve, providerExecuted: true },
    ],
  });
  return (await hostedAnswer({ ...given, approval: "always" }, messages)).text;
}
