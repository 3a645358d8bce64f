# Drives docs/snippets/tokenbus.py: does what each line of standard input says
# and answers with a line.
import asyncio, json, sys, urllib.error, urllib.request
from tokenbus import TokenError, Tokens

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

def get(url, token):
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
    try:
        return direct.open(request)
    except urllib.error.HTTPError as answer:
        return answer

async def do(tokens, command):
    key = command["key"]
    try:
        if "url" in command:
            answer = await tokens.call(key, lambda token: asyncio.to_thread(get, command["url"], token))
            return {"status": answer.status}
        reply = await tokens.token(key, rejected=command.get("rejected", 0))
        return {"version": reply["version"], "token": reply["access_token"]}
    except TokenError as e:
        return {"code": e.code, "text": str(e), "retry_after": e.retry_after}

async def main(url, seed_file):
    tokens = await Tokens().connect(url, seed_file)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await do(tokens, json.loads(line))), flush=True)
    await tokens.nc.close()

asyncio.run(main(*sys.argv[1:]))
