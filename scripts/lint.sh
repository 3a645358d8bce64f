#!/bin/sh
# Checks format and runs the static checks. All of them run, whatever the
# earlier ones found; the exit code is 1 if any found something.
set -u

cd "$(dirname "$0")/.." || exit 1
GO=${GO:-go}
failed=0

check() {
	name=$1
	shift
	if ! "$@"; then
		echo "lint: $name: failed" >&2
		failed=1
	fi
}

# silent COMMAND…: succeeds if the command does and prints nothing.
silent() {
	out=$("$@" 2>&1)
	code=$?
	[ -z "$out" ] || printf '%s\n' "$out" >&2
	[ "$code" -eq 0 ] && [ -z "$out" ]
}

gofiles() { git ls-files -z --cached --others --exclude-standard -- '*.go' | xargs -0 gofmt -l -s; }

check gofmt silent gofiles
check vet "$GO" vet ./...
check fix silent "$GO" fix -diff ./...
check staticcheck "$GO" tool staticcheck ./...
if command -v shellcheck >/dev/null 2>&1; then
	check shellcheck shellcheck scripts/*.sh .ci/run
else
	echo "lint: shellcheck: not installed, skipped" >&2
fi

# The database of known vulnerabilities is on the network; without it there is
# nothing to check against.
if ! command -v govulncheck >/dev/null 2>&1; then
	echo "lint: govulncheck: not installed, skipped (go install golang.org/x/vuln/cmd/govulncheck@latest)" >&2
elif ! curl -fsS -m 10 -o /dev/null "${GOVULNDB:-https://vuln.go.dev}/index/db.json" 2>/dev/null; then
	echo "lint: govulncheck: its database can't be reached, skipped" >&2
else
	check govulncheck govulncheck ./...
fi

exit "$failed"
