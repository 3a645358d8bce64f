#!/bin/sh
# Runs every fuzz target of the repository for FUZZTIME, one after another.
# What a target finds is written to its package's testdata/fuzz: commit it with
# the fix.
set -eu

cd "$(dirname "$0")/.."
GO=${GO:-go}
: "${FUZZTIME:=10s}"
failed=0

for package in $("$GO" list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do
	for target in $("$GO" test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "fuzz: $package $target"
		"$GO" test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$package" || failed=1
	done
done
exit "$failed"
