// Drives docs/snippets/tokenbus.mjs: does what each line of standard input says
// and answers with a line.
import { createInterface } from "node:readline";
import { TokenError, Tokens } from "./tokenbus.mjs";

async function perform(tokens, { key, url, rejected }) {
  try {
    if (url) {
      const answer = await tokens.call(key, (token) => fetch(url, { headers: { Authorization: `Bearer ${token}` } }));
      return { status: answer.status };
    }
    const reply = await tokens.token(key, { rejected });
    return { version: reply.version, token: reply.access_token };
  } catch (e) {
    if (!(e instanceof TokenError)) throw e;
    return { code: e.code, text: e.message, retry_after: e.retryAfter };
  }
}

const tokens = await new Tokens().connect(process.argv[2], process.argv[3]);
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await perform(tokens, JSON.parse(line))));
}
await tokens.nc.close();
