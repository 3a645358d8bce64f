import { readFile } from "node:fs/promises";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";

export class TokenError extends Error {
  constructor({ code, message, retry_after }) {
    super(`${code}: ${message}`);
    Object.assign(this, { code, retryAfter: retry_after });
  }
}

export class Tokens {
  root = "tokenbus.v1.";
  held = new Map(); seen = new Map(); rev = new Map(); links = 0;

  async connect(servers, seedFile) {
    const seed = new TextEncoder().encode((await readFile(seedFile, "utf8")).trim());
    this.nc = await connect({ servers, authenticator: nkeyAuthenticator(seed), inboxPrefix: "_INBOX_client",
      maxReconnectAttempts: -1, pingInterval: 5000, maxPingOut: 2 });
    (async () => { for await (const s of this.nc.status()) if (s.type === "reconnect") this.links++; })();
    this.nc.subscribe(`${this.root}bump.>`, { callback: (err, msg) => { if (!err) this.heard(msg.json()); } });
    await this.nc.flush();
    return this;
  }

  heard({ platform, id, rev }) {                    // a bump: forget what we hold, unless it is old news
    const key = `${platform}.${id}`;
    if (rev <= (this.rev.get(key) ?? 0)) return;
    this.rev.set(key, rev);
    this.held.delete(key);
  }

  async inHand(key, rejected) {
    const link = this.links, held = this.held.get(key);
    if (held && held.link !== link) {               // bumps may have been missed: look at the last one
      const [platform, id] = key.split(".");
      const reply = await this.ask(`${this.root}catchup.${platform}`, JSON.stringify({ ids: [id] }), 5).catch(() => null);
      const last = reply?.json().bumps?.[0];
      if (!last) return undefined;                  // no worker, an error, or there is none: ask for the token
      this.heard(last);
      held.link = link;
    }
    const now = this.held.get(key);
    return now?.version > rejected && now.until > Date.now() ? now : undefined;
  }

  async ask(subject, body, seconds) {
    try {
      return await this.nc.request(subject, body, { timeout: seconds * 1000 });
    } catch (e) {                                   // no worker, no answer, no connection
      throw new TokenError({ code: "unavailable", message: e.message, retry_after: "1s" });
    }
  }

  async token(key, { rejected = 0, timeout = 10 } = {}) {
    const held = await this.inHand(key, rejected);
    if (held) return held;
    const link = this.links, rev = this.rev.get(key), seen = () => this.seen.get(key) ?? 0;
    const body = { min_version: seen(), rejected_version: rejected, timeout: `${timeout}s` };
    const reply = (await this.ask(`${this.root}request.${key}`, JSON.stringify(body), timeout + 1)).json();
    if (reply.error) throw new TokenError(reply.error);
    if (`${reply.platform}.${reply.id}` !== key)
      throw new TokenError({ code: "unavailable", message: "the reply is for another account", retry_after: "1s" });
    this.seen.set(key, Math.max(seen(), reply.version));
    if (reply.expires_at && this.rev.get(key) === rev && seen() === reply.version)
      this.held.set(key, { ...reply, link, until: Date.parse(reply.expires_at) - 30_000 });
    return reply;
  }

  async call(key, api) {                            // api(accessToken) resolves to what has a status: 401 is told once
    const token = await this.token(key), answer = await api(token.access_token);
    if (answer.status !== 401) return answer;
    return api((await this.token(key, { rejected: token.version })).access_token);
  }
}
