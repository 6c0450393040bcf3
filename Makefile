# Muster. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/muster-edge/muster/node.Version=$(VERSION)
# The race detector's runtime is C, the product is not.
export CGO_ENABLED ?= 0
GO ?= go
# The same for all that is built here, so that the binaries, the tests and the stand-in share what is compiled; without DWARF that takes a
# quarter less time.
export GOFLAGS := $(GOFLAGS) -trimpath -gcflags=all=-dwarf=false
# One race binary per package fills two cores; more only swaps.
TESTFLAGS ?= -v -count=1 -timeout 20m
D ?= 10m
SEED ?= 1

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | column -t -s $$'\t'

.PHONY: build
build: ## build bin/muster and bin/muster-init, static binaries
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/muster ./cmd/muster
	$(GO) build -ldflags '-s -w' -o bin/muster-init ./cmd/muster-init

.PHONY: os-image
os-image: build ## build our operating system's image into build/os (root; VERSION, K3S_BIN, OS_OUT)
	VERSION=$(VERSION) MUSTER_BIN=$(CURDIR)/bin/muster deploy/os/build

.PHONY: demo
demo: build ## a site of 3 masters and 1 worker on this machine, from nothing to Ready (DEMO_EXIT=1 takes it down again)
	e2e/demo

.PHONY: test
test: build ## every test a landing needs
	e2e/prepare
	e2e/vm/prepare
	@# What takes longest the first time runs beside the unit tests: the stand-in, and what the images take from Debian.
	if [ -z "$$K3S_BIN" ]; then nice e2e/k3slab/build >/dev/null & fi; \
	nice deploy/os/base >/dev/null & \
	$(MAKE) test-unit; unit=$$?; wait; exit $$unit
	$(MAKE) test-e2e

.PHONY: test-unit
test-unit: ## unit, property and simulation tests, race detector on
	CGO_ENABLED=1 $(GO) test -race $(TESTFLAGS) $$($(GO) list ./... | grep -vE '/e2e/(scenario|long|systemd|vm/scenario)$$')
	@# The race detector saw one round of power cuts; these are the thousand.
	$(GO) test $(TESTFLAGS) -vet=off -run '^TestAPowerCutAtAnyStep' ./upgrade

.PHONY: test-e2e
test-e2e: build ## the scenarios in the lab, on K3S_BIN or the stand-in, and the shortest two on booted machines
	e2e/prepare
	e2e/systemd/prepare
	MUSTER_BIN=$(CURDIR)/bin/muster K3S_BIN=$${K3S_BIN:-$$(e2e/k3slab/build)} $(GO) test $(TESTFLAGS) -vet=off -timeout 45m -p 1 -parallel 3 ./e2e/systemd ./e2e/scenario
	e2e/vm/prepare
	$(VMTEST) -timeout 20m -run '^(TestABIOSMachineBoots|TestAnUpgradeFromARegistry)' ./e2e/vm/scenario

.PHONY: test-long
test-long: test test-long-e2e ## what takes too long for every landing
	MUSTER_SIM_SEEDS=$${MUSTER_SIM_SEEDS:-200} $(GO) test $(TESTFLAGS) -timeout 60m -run 'Faults|S1|S10|Replays' ./e2e/sim
	e2e/vm/prepare
	$(VMTEST) -timeout 20m -run '^TestS10' ./e2e/vm/scenario

.PHONY: test-long-e2e
test-long-e2e: build ## the long scenarios alone
	e2e/prepare
	MUSTER_BIN=$(CURDIR)/bin/muster K3S_BIN=$${K3S_BIN:-$$(e2e/k3slab/build)} $(GO) test -v -count=1 -timeout 90m -p 1 -parallel 2 ./e2e/long

.PHONY: soak
soak: build ## random things to a site in the lab for D (10m), drawn from SEED (1), with Kubernetes if KUBERNETES=1; ends with violations and leaks
	$(GO) run ./e2e/soak/run -d $(D) -seed $(SEED) $(if $(KUBERNETES),-k3s $${K3S_BIN:-$$(e2e/k3slab/build)})

# KVM is used where it works, else machines are emulated; then this takes most of an hour.
VMTEST = MUSTER_BIN=$(CURDIR)/bin/muster K3S_BIN=$${K3S_BIN:-$$(e2e/k3slab/build)} $(GO) test -v -count=1 -vet=off

.PHONY: e2e-vm
e2e-vm: build ## every scenario on booted machines (QEMU), five power cuts included; MUSTER_VM_LOGS=DIR keeps consoles
	e2e/vm/prepare
	@# An hour is what it may take; a slow machine is told by the time, not by half a run. Three at once, for a machine waits much of its time.
	$(VMTEST) -timeout 120m -parallel 3 ./e2e/vm/scenario

.PHONY: e2e-powercut
e2e-powercut: build ## N power cuts (50) at random moments (SEED) of upgrades
	e2e/vm/prepare
	MUSTER_POWERCUTS=$(or $(N),50) MUSTER_SEED=$(SEED) $(VMTEST) -timeout 0 -run WheneverThePowerIsCut ./e2e/vm/scenario

.PHONY: bench-vm
bench-vm: build ## split a boot by phase; an upgrade against dd; into docs/BENCHMARKS.md
	e2e/vm/prepare
	MUSTER_BENCH_OUT=$(CURDIR)/docs/BENCHMARKS.md $(VMTEST) -timeout 60m -run '^$$' -bench . -benchtime 1x ./e2e/vm/scenario

.PHONY: lint
lint: ## go vet, staticcheck, gofumpt
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.7.0 ./...
	test -z "$$($(GO) run mvdan.cc/gofumpt@v0.9.2 -l . | tee /dev/stderr)"

.PHONY: bench
bench: bench-peers $(if $(BENCH_ARGS),,bench-faults bench-sim) ## every figure and bar but those of bench-vm, into docs/BENCHMARKS.md (hours); with BENCH_ARGS only bench-peers

.PHONY: bench-peers
bench-peers: build ## measure beside EdgeVPN, Nebula and wireguard-go, into docs/BENCHMARKS.md
	e2e/bench/run

.PHONY: bench-faults
bench-faults: build ## measure deaths, elections, replacements, decisions, revocations and idle links of sites in the lab (80 minutes), into docs/BENCHMARKS.md
	e2e/prepare
	MUSTER_BENCH_OUT=$(CURDIR)/docs/BENCHMARKS.md MUSTER_BIN=$(CURDIR)/bin/muster K3S_BIN=$${K3S_BIN:-$$(e2e/k3slab/build)} $(GO) test -run '^$$' -bench . -benchtime 20x -timeout 2h -v ./e2e/long

.PHONY: bench-sim
bench-sim: ## convergence and bytes of simulated sites of 3 to 1000 nodes, into docs/BENCHMARKS.md
	MUSTER_BENCH_OUT=$(CURDIR)/docs/BENCHMARKS.md $(GO) test -run '^$$' -bench Convergence -benchtime 1x -timeout 2h -v ./e2e/sim

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (one minute)
	e2e/fuzz $${FUZZTIME:-60s}

.PHONY: docs
docs: build ## generate docs/CONFIG.md
	bin/muster config document > docs/CONFIG.md

.PHONY: clean
clean: ## take the demo down, remove what was built
	-[ -x bin/muster ] && bin/muster lab down
	rm -rf bin build .cache
