import datetime as dt, json
import nats

class TokenError(Exception):
    def __init__(self, code, message, retry_after=None):
        super().__init__(f"{code}: {message}")
        self.code, self.retry_after = code, retry_after

class Tokens:
    def __init__(self, root="tokenbus.v1."):
        self.root, self.held, self.seen, self.rev = root, {}, {}, {}

    async def connect(self, url, seed_file):
        self.nc = await nats.connect(url, nkeys_seed=seed_file, inbox_prefix=b"_INBOX_client",
            max_reconnect_attempts=-1, ping_interval=5, max_outstanding_pings=2)
        await self.nc.subscribe(self.root + "bump.>", cb=self.heard, pending_msgs_limit=0, pending_bytes_limit=0)
        await self.nc.flush()
        return self

    async def heard(self, msg):
        self.take(json.loads(msg.data))

    def take(self, bump):                           # forget what we hold, unless it is old news
        key = bump["platform"] + "." + bump["id"]
        if bump["rev"] > self.rev.get(key, 0):
            self.rev[key] = bump["rev"]
            self.held.pop(key, None)

    async def in_hand(self, key, rejected):
        held, link = self.held.get(key), self.nc.stats["reconnects"]
        if held and held["link"] != link:           # bumps may have been missed: look at the last one
            platform, id = key.split(".")
            try:
                reply = await self.ask(self.root + "catchup." + platform, json.dumps({"ids": [id]}).encode(), 5)
                self.take(json.loads(reply.data)["bumps"][0])
            except (TokenError, LookupError):       # no worker, an error, or there is none
                return None                         # so ask for the token
            held["link"], held = link, self.held.get(key)
        if held and held["version"] > rejected and held["until"] > dt.datetime.now(dt.timezone.utc):
            return held
        return None

    async def ask(self, subject, body, timeout):
        try:
            return await self.nc.request(subject, body, timeout=timeout)
        except nats.errors.Error as e:              # no worker, no answer, no connection
            raise TokenError("unavailable", str(e), "1s") from e

    async def token(self, key, rejected=0, timeout=10):
        if held := await self.in_hand(key, rejected):
            return held
        link, rev = self.nc.stats["reconnects"], self.rev.get(key)
        body = {"min_version": self.seen.get(key, 0), "rejected_version": rejected, "timeout": f"{timeout}s"}
        reply = json.loads((await self.ask(self.root + "request." + key, json.dumps(body).encode(), timeout + 1)).data)
        if "error" in reply:
            raise TokenError(*(reply["error"].get(field) for field in ("code", "message", "retry_after")))
        if reply["platform"] + "." + reply["id"] != key:
            raise TokenError("unavailable", "the reply is for another account", "1s")
        self.seen[key] = max(self.seen.get(key, 0), reply["version"])
        if "expires_at" in reply and self.rev.get(key) == rev and self.seen[key] == reply["version"]:
            until = dt.datetime.fromisoformat(reply["expires_at"]) - dt.timedelta(seconds=30)
            self.held[key] = reply | {"until": until, "link": link}
        return reply

    async def call(self, key, api):                 # api(access_token) returns what has a status: 401 is told once
        token = await self.token(key)
        answer = await api(token["access_token"])
        if answer.status == 401:
            token = await self.token(key, rejected=token["version"])
            answer = await api(token["access_token"])
        return answer
