// Runs scenarios of one client: node run.mjs CLIENT. One JSON line asks for a scenario, one answers.
import { createInterface } from "node:readline";

const TIME_LIMIT = 20_000;

const scenarios = await import(`./${process.argv[2]}.mjs`);

function told(error) {
  const { name, message, status, statusCode, code, param, type } = error;
  return { name, message, status: status ?? statusCode, code, param, type };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { scenario, ...given } = JSON.parse(line);
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the scenario took too long")), TIME_LIMIT);
  });
  let answer;
  try {
    answer = { result: (await Promise.race([scenarios[scenario](given), limit])) ?? null };
  } catch (error) {
    answer = { error: told(error), stack: error.stack };
  } finally {
    clearTimeout(timer);
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
