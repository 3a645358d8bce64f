#!/bin/sh
# Installs what the tests need besides Go: redis-server, the stand-in for
# MongoDB (Maven, JDK 17 or later), the OpenID provider (Node 20 or later), and
# NATS libraries for the clients in other languages (Python 3.11 or later, Node).
# What is built goes to .cache/ at the top of the repository. Running it again
# does nothing and says nothing; `make test` runs it every time.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cache=$root/.cache
rig=$root/internal/rig

say() { echo "test-deps: $*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# need COMMAND MINIMUM FOUND REMEDY: the major version found must be a number
# that is not below the minimum.
need() {
	case $3 in
	'' | *[!0-9]*) die "$1 is missing: $4" ;;
	esac
	[ "$3" -ge "$2" ] || die "$1 $3 is too old, $2 or later is needed: $4"
}

redis() {
	! have redis-server || return 0
	have apt-get || die "redis-server is missing: install it with this system's package manager"
	as_root=
	if [ "$(id -u)" -ne 0 ]; then
		have sudo || die "redis-server is missing: run as root: apt-get install redis-server"
		as_root=sudo
	fi
	say "installing redis-server"
	log=$(mktemp)
	# Installed for its binary alone: RUNLEVEL=1 keeps the package from
	# starting a server.
	install='export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
		apt-get install -y --no-install-recommends redis-server ||
		{ apt-get update && apt-get install -y --no-install-recommends redis-server; }'
	if ! $as_root sh -c "$install" >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		die "cannot install redis-server; install it by hand"
	fi
	rm -f "$log"
}

# build_folder makes a folder to build in, inside the cache, which git ignores.
build_folder() {
	mkdir -p "$cache"
	echo '*' >"$cache/.gitignore"
	mktemp -d "$cache/build.XXXXXX"
}

# replace NEW OLD: puts a finished build in its place, so that a half-made one
# is never seen.
replace() {
	rm -rf "$2.old"
	[ ! -e "$2" ] || mv "$2" "$2.old"
	mv "$1" "$2"
	rm -rf "$2.old"
}

mongostandin() {
	src=$rig/mongostandin
	main=src/main/java/dev/tokenbus/mongostandin/Main.java
	built=$cache/mongostandin
	if cmp -s "$src/pom.xml" "$built/pom.xml" && cmp -s "$src/$main" "$built/Main.java"; then
		return 0
	fi
	remedy="install a JDK 17 or later and Maven (Debian: apt-get install openjdk-17-jdk-headless maven)"
	have javac || die "javac is missing: $remedy"
	need JDK 17 "$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p')" "$remedy"
	have mvn || die "mvn is missing: $remedy"
	say "building the stand-in for MongoDB"
	new=$(build_folder)
	log=$new/log
	if ! mvn -q -B -f "$src/pom.xml" "-Dout=$new" compiler:compile dependency:copy-dependencies >"$log" 2>&1; then
		cat "$log" >&2
		rm -rf "$new"
		die "cannot build the stand-in for MongoDB (internal/rig/mongostandin)"
	fi
	cp "$src/pom.xml" "$src/$main" "$new/"
	replace "$new" "$built"
}

oidc() {
	src=$rig/oidc
	built=$cache/oidc
	if cmp -s "$src/package-lock.json" "$built/package-lock.json"; then
		return 0
	fi
	remedy="install Node 20 or later with npm"
	have node || die "node is missing: $remedy"
	need Node 20 "$(node -v | sed -n 's/^v\([0-9]*\).*/\1/p')" "$remedy"
	have npm || die "npm is missing: $remedy"
	say "installing the OpenID provider"
	new=$(build_folder)
	cp "$src/package.json" "$src/package-lock.json" "$new/"
	if ! (cd "$new" && npm ci --ignore-scripts --no-audit --no-fund) >"$new/log" 2>&1; then
		cat "$new/log" >&2
		rm -rf "$new"
		die "cannot install the OpenID provider (internal/rig/oidc)"
	fi
	replace "$new" "$built"
}

snippets() {
	src=$root/docs/snippets
	built=$cache/snippets
	if cmp -s "$src/package-lock.json" "$built/package-lock.json" && cmp -s "$src/requirements.txt" "$built/requirements.txt"; then
		return 0
	fi
	remedy="install Node 20 or later with npm"
	have node || die "node is missing: $remedy"
	need Node 20 "$(node -v | sed -n 's/^v\([0-9]*\).*/\1/p')" "$remedy"
	have npm || die "npm is missing: $remedy"
	remedy="install Python 3.11 or later with pip"
	have python3 || die "python3 is missing: $remedy"
	need "Python 3's minor version" 11 "$(python3 -c 'import sys; print(sys.version_info[1])')" "$remedy"
	python3 -m pip --version >/dev/null 2>&1 || die "pip is missing: $remedy"
	say "installing the NATS libraries of the clients in other languages"
	new=$(build_folder)
	cp "$src/package.json" "$src/package-lock.json" "$src/requirements.txt" "$new/"
	if ! (cd "$new" && npm ci --ignore-scripts --no-audit --no-fund &&
		python3 -m pip install --disable-pip-version-check --no-deps --target python -r requirements.txt) >"$new/log" 2>&1; then
		cat "$new/log" >&2
		rm -rf "$new"
		die "cannot install the NATS libraries (docs/snippets)"
	fi
	replace "$new" "$built"
}

redis
mongostandin
oidc
snippets
