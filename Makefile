# `make test` is all that a change needs; `make help` lists the rest.

GO       ?= go
FUZZTIME ?= 10s
BENCH    ?=
PROFILETIME ?= 1x
PROFILE  ?= ./internal/figure/bench:^BenchmarkHotLookup$$/^64$$ ./internal/figure/bench:^BenchmarkRefresh$$/^r1$$
E2E_STORM         ?= 60s
E2E_RATE          ?= 5000
SOAK              ?= 10m
SEED              ?= 1
COHERENCE         ?= 10m
EXPLORE_SCHEDULES ?= 100000
EXPLORE_TIME      ?= 10m
CRASH_ROTATIONS   ?= 200

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: test-deps
test-deps: ## install the servers that tests run against
	@scripts/test-deps.sh

.PHONY: test
test: test-deps ## run all tests with the race detector
	TOKENBUS_TEST_REQUIRE=1 $(GO) test -race -shuffle=on $(TESTFLAGS) ./...

.PHONY: lint
lint: ## check format and run the static checks
	@GO="$(GO)" scripts/lint.sh

.PHONY: storm
storm: test-deps ## kill workers at random before a third party's authorization server (E2E_STORM, E2E_SEED)
	TOKENBUS_TEST_REQUIRE=1 E2E_STORM=$(E2E_STORM) $(GO) test -race -count=1 -timeout 1h -v -run '^TestThirdPartyStorm$$' ./internal/e2e

.PHONY: soak
soak: test-deps ## random faults against a full stack, one every five seconds (SOAK, SOAK_SEED)
	TOKENBUS_TEST_REQUIRE=1 SOAK=$(SOAK) $(GO) test -count=1 -timeout 2h -v -run '^TestSoak$$' ./internal/degraded

.PHONY: coherence
coherence: test-deps ## look for stale tokens while links fail (COHERENCE, COHERENCE_SEED), and find every mutation
	TOKENBUS_TEST_REQUIRE=1 COHERENCE=$(COHERENCE) COHERENCE_MUTATIONS=1 $(GO) test -count=1 -timeout 2h -v ./internal/coherence

.PHONY: random
random: test-deps ## a minute each of random faults, and every mutation of the rules of coherence (SEED)
	TOKENBUS_TEST_REQUIRE=1 COHERENCE=60s COHERENCE_SEED=$(SEED) $(GO) test -race -count=1 -v -run '^TestP4NoPeerServesAStaleToken$$' ./internal/coherence
	COHERENCE_MUTATIONS=1 $(GO) test -count=1 -run '^TestMutations$$' ./internal/coherence
	TOKENBUS_TEST_REQUIRE=1 SOAK=60s SOAK_SEED=$(SEED) $(GO) test -count=1 -v -run '^TestSoak$$' ./internal/degraded

.PHONY: rolling
rolling: test-deps ## replace three workers one by one under load (E2E_RATE look-ups a second)
	TOKENBUS_TEST_REQUIRE=1 E2E_RATE=$(E2E_RATE) $(GO) test -count=1 -v -run '^TestRollingRestart$$' ./internal/e2e

.PHONY: crash
crash: test-deps ## break running workers at random, three times in a row (CRASH_ROTATIONS, CRASH_SEED)
	TOKENBUS_TEST_REQUIRE=1 CRASH_ROTATIONS=$(CRASH_ROTATIONS) $(GO) test -race -count=3 -timeout 1h -v -run '^TestCrash(Embedded|Databases)$$' ./internal/crash

.PHONY: bench
bench: test-deps ## measure against rivals, and write docs/benchmarks.md (BENCH=regexp: some rows)
	$(GO) run ./internal/figure/table -bench '$(BENCH)'

.PHONY: bench-once
bench-once: test-deps ## run each benchmark once, to see that it still works
	TOKENBUS_TEST_REQUIRE=1 $(GO) test -run '^$$' -bench . -benchtime 1x ./...

.PHONY: profile
profile: test-deps ## CPU and allocations of look-ups and refreshes, into profiles/ (PROFILE='package:regexp …', PROFILETIME)
	@mkdir -p profiles
	@set -e; for p in $(foreach p,$(PROFILE),'$(p)'); do \
		f=profiles/$$(echo "$$p" | tr -cs 'A-Za-z0-9\n' _); \
		TOKENBUS_TEST_REQUIRE=1 TOKENBUS_BENCH=full $(GO) test -run '^$$' -bench "$${p#*:}" -benchtime $(PROFILETIME) -timeout 1h \
			-o $$f.test -cpuprofile $$f.cpu.prof -memprofile $$f.mem.prof -outputdir . "$${p%%:*}"; \
		$(GO) tool pprof -top -nodecount 25 $$f.test $$f.cpu.prof; \
		$(GO) tool pprof -top -nodecount 25 -sample_index alloc_space $$f.test $$f.mem.prof; \
	done

.PHONY: explore
explore: ## drive the core through EXPLORE_SCHEDULES schedules, and find every mutation
	EXPLORE_SCHEDULES=$(EXPLORE_SCHEDULES) EXPLORE_TIME=$(EXPLORE_TIME) EXPLORE_MUTATIONS=1 $(GO) test -count=1 -timeout 0 -run '^TestExplore$$' -v ./internal/explore

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME
	@GO="$(GO)" FUZZTIME="$(FUZZTIME)" scripts/fuzz.sh

.PHONY: golden
golden: ## rewrite the golden files of the wire contract and the recorded Go interfaces
	$(GO) test ./events -update
	$(GO) test ./internal/arch -run PublicAPI -update

.PHONY: cover
cover: test-deps ## write coverage.html
	TOKENBUS_TEST_REQUIRE=1 $(GO) test -coverprofile coverage.out -coverpkg ./... ./...
	$(GO) tool cover -html coverage.out -o coverage.html

.PHONY: build
build: ## build worker and tokenctl into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/ ./cmd/...

.PHONY: demo
demo: ## watch the whole thing work
	$(GO) run ./cmd/worker demo

.PHONY: clean
clean: ## remove what was built
	rm -rf bin profiles coverage.out coverage.html
