package main

import "strings"

// The cli package takes help texts for templates: they must hold no "{{".

func rootHelp() string {
	var b strings.Builder
	b.WriteString(`Usage:
  tokenctl COMMAND [options]

tokenctl imports OAuth logins into tokenbus, shows and changes accounts, fetches
tokens and watches what happens. It talks to the workers over NATS.

Commands:
  accounts import FILE|FOLDER…   bring in login files
  accounts list                  list accounts
  accounts get KEY…              show status, times and errors of accounts
  accounts refresh KEY…          get a new token now
  accounts disable|enable KEY…   stop serving an account, or go on
  accounts clear-error KEY…      forget a failure and try again
  accounts patch KEY…            change label, proxy or extra fields
  accounts delete KEY…           erase accounts
  token KEY                      print a living access token
  watch [KEY|PLATFORM…]          print events as they happen
  journal                        list answers that are not in the store yet
  version                        print the version

A KEY is <platform>.<id>, such as openai.alice. COMMAND --help says more.

Examples:
  tokenctl accounts import ~/.codex/auth.json
  tokenctl accounts list
  curl -H "Authorization: Bearer $(tokenctl token openai.alice)" https://…
`)
	writeOptions(&b)
	b.WriteString("\nExit codes: 0 done, 1 something failed, 2 wrong command line or configuration.\n")
	return b.String()
}

// helpOf completes the help of one command.
func helpOf(text string) string {
	return "Usage:\n  " + strings.TrimSpace(text) + "\n\nThe options of every command: tokenctl --help\n"
}

var accountsHelp = helpOf(`tokenctl accounts COMMAND [options]

Commands: import, list, get, refresh, disable, enable, clear-error, delete, patch.
tokenctl accounts COMMAND --help says more.`)

const importHelp = `tokenctl accounts import FILE|FOLDER… [options]

Brings the logins in files into tokenbus. Files are known by their shape: Codex
(~/.codex/auth.json), Claude Code (~/.claude/.credentials.json), Gemini CLI
(~/.gemini/oauth_creds.json), CLIProxyAPI, sub2api exports, Google application
default credentials, and the JSON of accounts.put. Of a folder every *.json file
is looked at, three levels deep; what is JSON and no login file is skipped; what is
no JSON fails. - is stdin.

Importing a file again changes nothing, but a login replaces the credentials
whole: what accounts patch has set (a proxy, extra fields) must be given again.
When one login fails the others still go in. Many are sent at once and told in
the order of the files; workers that have too much to do are asked again for half
a minute. After Ctrl-C it says of each login whether it was sent. No secret is
printed.

Give tokenbus a login of its own: one that its program goes on refreshing has two
writers, and the one that comes second ends it.

Options:
  --dry-run              tell what is found and contact nobody
  --id ID                the account's id, where the file names nobody
  --platform P           the platform, instead of the file's
  --label L              a name for people, instead of the file's
  --claude-account FILE  the .claude.json that says whose login a Claude Code
                         file is (default: the one beside it)
  --proxy-url URL        http://, https:// or socks5://…, the accounts' way to the
                         token endpoint

Examples:
  tokenctl accounts import --dry-run ~/.codex/auth.json
  tokenctl accounts import ~/.cli-proxy-api
  tokenctl accounts import - --platform acme --id alice < login.json`

const listHelp = `tokenctl accounts list [options]

Options:
  --platform P   only this platform
  --status S     only active, disabled or reauth_required
  --limit N      at most N accounts (default: 100)
  --all          all of them

The column REFRESH says when the next refresh ahead of need is due, or
  due        it is due already
  running    an exchange is recorded
  in doubt   an exchange was perhaps sent, and its answer is missing
  never      there is no refresh token
  -          none is planned: the expiry is unknown, workers refresh nothing ahead
             of need, the account is disabled, or its grant is dead

Examples:
  tokenctl accounts list --status reauth_required
  tokenctl accounts list --all --output json`

const getHelp = `tokenctl accounts get KEY…

Shows status, times and errors of accounts; no secret, no proxy and no extra fields.
With --output json, one object a line.`

const refreshHelp = `tokenctl accounts refresh KEY… [--force]

Exchanges the refresh token now and waits for the new version.

Options:
  --force   do so also while an earlier exchange is in doubt: its answer may be
            lost, and a second use of the same refresh token can end the login`

const disableHelp = `tokenctl accounts disable KEY…

Stops serving accounts: requests for them are refused until they are enabled.`

const enableHelp = `tokenctl accounts enable KEY…

Serves accounts again that were disabled. It clears no error.`

const clearErrorHelp = `tokenctl accounts clear-error KEY…

Forgets failures, back-off and a refused refresh token, so that it is tried once
more. An exchange in doubt stays so; accounts refresh --force ends that.`

const deleteHelp = `tokenctl accounts delete KEY… [--yes]

Erases accounts and their credentials. A later import goes on counting versions
where they ended.

Options:
  --yes   don't ask; needed where there is no terminal`

const patchHelp = `tokenctl accounts patch KEY… [options]

Changes what is given and leaves everything else, tokens above all.

Options:
  --label L          a name for people
  --proxy-url URL    http://, https:// or socks5://…, the way to the token
                     endpoint; "" removes it
  --set NAME=VALUE   an extra field, any number of times
  --unset NAME       remove an extra field

Examples:
  tokenctl accounts patch gemini.alice --set project_id=my-project
  tokenctl accounts patch openai.alice --proxy-url socks5://127.0.0.1:1080`

const tokenHelp = `tokenctl token KEY [options]

Prints a living access token and nothing else; with --output json the worker's
whole reply. It needs a client's key: client.nk, beside the worker's operator.nk.

Options:
  --min-ttl TIME   the token lives at least this much longer (default: the
                   worker's); more than is left spends a refresh, now
  --timeout TIME   how long to wait, up to 1m (default: 10s)

Example:
  curl -H "Authorization: Bearer $(tokenctl token openai.alice)" https://…`

const watchHelp = `tokenctl watch [KEY|PLATFORM…]

Prints events as they happen, one a line, until Ctrl-C: refreshed (new
credentials), bump (the version that peers must reach) and status.

Examples:
  tokenctl watch openai
  tokenctl watch --output json | jq 'select(.event == "status")'`

const journalHelp = `tokenctl journal

Lists the answers of token endpoints that the workers hold and that are not in
the store yet: those in the journal that all workers share, and those in the
spool (data folder) of the worker that answers. An answer mostly waits in both.
No answer is shown.

A record may be the only copy of new credentials: the endpoint may have ended the
refresh token that was sent for it. Never remove one that may be good.

What to do about a record
  that is seconds old       nothing: it is being saved
  that stays                see to the store (/readyz of a worker names what is
                            down); the workers save it as soon as they can
  that can't be read, as it was sealed with a key that the keyset lacks
                            give that worker the newer keyset file
  that can't be read, as it is torn
                            PROBLEM names its file, or its key in the bucket.
                            While it is there, nothing more is sent for a
                            rotation of its account. Log in again; or, if it is
                            past saving, remove it: the rotation is in doubt then
  of a worker that is gone  start it again with its own data folder

A spool belongs to one worker, and any worker may answer: ask again to hear of
another, or look into <data-dir>/spool there.

Columns: FROM is the version that the refresh started from, SENT when its request
was sent, WORKER and HOST who got the answer. With --output json, one object with all
"records".

Example:
  tokenctl journal --output json | jq '.records[] | select(.readable | not)'`

const versionHelp = `tokenctl version

Prints the version.`
