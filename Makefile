# Muster. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/muster-edge/muster/node.Version=$(VERSION)
# The race detector's runtime is C, the product is not.
export CGO_ENABLED ?= 0
GO ?= go
# One race binary per package fills two cores; more only swaps.
TESTFLAGS ?= -v -count=1 -timeout 20m
D ?= 10m
SEED ?= 1

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | column -t -s $$'\t'

.PHONY: build
build: ## build bin/muster, one static binary
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/muster ./cmd/muster

.PHONY: demo
demo: build ## a site of 3 masters and 1 worker on this machine, from nothing to Ready (DEMO_EXIT=1 takes it down again)
	e2e/demo

.PHONY: test
test: build ## every test a landing needs
	e2e/prepare
	@# The stand-in's first build takes longer than anything else: it runs beside the unit tests.
	if [ -z "$$K3S_BIN" ]; then nice e2e/k3slab/build >/dev/null & fi; \
	$(MAKE) test-unit; unit=$$?; wait; exit $$unit
	$(MAKE) test-e2e

.PHONY: test-unit
test-unit: ## unit, property and simulation tests, race detector on
	CGO_ENABLED=1 $(GO) test -race $(TESTFLAGS) $$($(GO) list ./... | grep -vE '/e2e/(scenario|systemd)$$')

.PHONY: test-e2e
test-e2e: build ## the scenarios in the lab, on K3S_BIN or the stand-in
	e2e/prepare
	e2e/systemd/prepare
	MUSTER_BIN=$(CURDIR)/bin/muster K3S_BIN=$${K3S_BIN:-$$(e2e/k3slab/build)} $(GO) test $(TESTFLAGS) -p 1 -parallel 3 ./e2e/systemd ./e2e/scenario

.PHONY: test-long
test-long: test ## what takes too long for every landing

.PHONY: lint
lint: ## go vet, staticcheck, gofumpt
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.7.0 ./...
	test -z "$$($(GO) run mvdan.cc/gofumpt@v0.9.2 -l . | tee /dev/stderr)"

.PHONY: bench
bench: build ## measure beside EdgeVPN, Nebula and wireguard-go, into docs/BENCHMARKS.md
	e2e/bench/run

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (one minute)
	e2e/fuzz $${FUZZTIME:-60s}

.PHONY: docs
docs: build ## generate docs/CONFIG.md
	bin/muster config document > docs/CONFIG.md

.PHONY: clean
clean: ## take the demo down, remove what was built
	-[ -x bin/muster ] && bin/muster lab down
	rm -rf bin .cache
