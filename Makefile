# What there is to do here: `make help`. All of it needs Go (the version in go.mod), make, git and, for the race detector, a C compiler.
# The network is needed for Go modules, and for promtool and PostgreSQL where there is none (see tools/promtool.sh and tools/postgres.sh).
# Nothing but golang-image and the targets that begin with "compose", and so ci, needs Docker: a Docker Engine and its CLI, of version 20.10 or later.

# Works with GNU make 3.81 and bash 3.2 too, which is what macOS has.
SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

SERVICES := $(notdir $(patsubst %/go.mod,%,$(wildcard services/*/go.mod)))
MODULES := . bench e2e $(addprefix services/,$(SERVICES))
TOOL_MODULES := $(patsubst %/go.mod,%,$(wildcard tools/*/go.mod))
MAINS := ./cmd/countersign $(addprefix ./services/,$(SERVICES))
PLATFORMS := darwin/arm64 linux/arm64

# The same sources give the same bytes, whatever the directory and the state of the checkout: an identity is bound to the
# SHA-256 of a binary.
# grpcnotrace leaves out pages for x/net/trace, which nothing here serves: half a megabyte of each process (package grpc says more).
# Without symbol tables a binary is a third smaller, and so is the time that it takes to hash it when a process is attested.
# Without C, whose library is as large in memory as what many services do and another on each machine (CGO_ENABLED=0 where these are used).
BUILD_FLAGS := -tags=grpcnotrace -trimpath -buildvcs=false -ldflags='-s -w'

TOOLS := bin/tools
BUF := $(TOOLS)/buf
LINT := $(CURDIR)/$(TOOLS)/golangci-lint
PROMTOOL := tools/promtool.sh $(TOOLS)/promtool
POSTGRES := tools/postgres.sh $(TOOLS)/postgresql
GOLANG_IMAGE := golang:1.26-bookworm
SCHEMA_PLUGINS := $(TOOLS)/protoc-gen-jsonschema $(TOOLS)/protoc-gen-editorschema
GO_PLUGINS := $(addprefix $(TOOLS)/,protoc-gen-go protoc-gen-go-grpc protoc-gen-grpc-gateway protoc-gen-openapiv2)
PLUGINS := $(GO_PLUGINS) $(SCHEMA_PLUGINS)

# Where `make postgres` puts a PostgreSQL for tests to find, if the machine has none.
export PATH := $(PATH):$(CURDIR)/$(TOOLS)/postgresql/bin

# protovalidate's schema comes from its Go module, so that no schema registry has to be reachable. The sum pins its content.
VALIDATE_MODULE := github.com/bufbuild/protovalidate@v1.2.2
VALIDATE_SUM := h1:2H/9/Kr97etSRqW3IJjTTb09z+zutkK2GDhDRbOnqr4=
VALIDATE_PROTO := proto/.imports/buf/validate/validate.proto

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

##### The mesh

.PHONY: build
build: ## Build every service and the CLI into bin/
	@mkdir -p bin/actors
	CGO_ENABLED=0 go build $(BUILD_FLAGS) -o bin/ $(MAINS)
	@for actor in burglar accounts-burglar gateway-burglar; do \
		cmp -s bin/countersign bin/actors/$$actor || { rm -f bin/actors/$$actor; cp bin/countersign bin/actors/$$actor; }; \
	done

.PHONY: up
up: build ## Build, then start the mesh here; Ctrl-C stops it
	bin/countersign up

.PHONY: static
static: ## Build what `build` does, each module by itself, into bin/static/ (GOOS and GOARCH say for what). deploy/Dockerfile does this
	@mkdir -p bin/static
	@for main in $(MAINS); do \
		echo "go build # $$main"; \
		(cd $$main && CGO_ENABLED=0 GOWORK=off go build $(BUILD_FLAGS) -o $(CURDIR)/bin/static/ .) || exit 1; \
	done

.PHONY: down
down: ## Stop a mesh that was started with `countersign up --detach`
	bin/countersign down

.PHONY: demo
demo: build ## Play the story against the running mesh
	bin/countersign demo

##### The mesh in containers

# Docker's own Compose where it is there and not older than 2.24, and otherwise the one that tools/compose pins, which needs no plugin to build
# images either.
COMPOSE_IS_THERE = docker compose version --short 2>/dev/null | grep -qE '^v?(2\.(2[4-9]|[3-9][0-9])|[3-9]|[1-9][0-9])'
COMPOSE = $(shell $(COMPOSE_IS_THERE) && echo docker compose || echo $(CURDIR)/$(TOOLS)/docker-compose)
MESH = $(COMPOSE) --file deploy/compose/compose.yaml

.PHONY: compose-tool
compose-tool:
	@$(COMPOSE_IS_THERE) || $(MAKE) $(TOOLS)/docker-compose

.PHONY: golang-image
golang-image: ## See to the image that deploy/Dockerfile begins with; where no registry can be reached, make a stand-in from this machine's Go
	@tools/golang-image.sh $(GOLANG_IMAGE)

.PHONY: compose-build
compose-build: compose-tool golang-image ## Build the images
	$(MESH) build

.PHONY: compose-up
compose-up: compose-build ## Build the images, then start the mesh in containers and wait until all are healthy
	$(MESH) up --detach --wait
	@$(MESH) logs --no-log-prefix policy # which policy is in force, and whether that is the file's

.PHONY: compose-demo
compose-demo: compose-tool ## Play the story in the containers, after compose-up
	$(MESH) --profile demo up --detach --wait
	$(MESH) exec operator countersign demo

.PHONY: compose-down
compose-down: compose-tool ## Stop the mesh in containers and remove them, but not what they know; `make compose-down VOLUMES=--volumes` removes that too
	$(MESH) --profile demo down --remove-orphans $(VOLUMES)

.PHONY: compose-test
compose-test: compose-build $(TOOLS)/grpcurl $(VALIDATE_PROTO) ## Test the images and the mesh in containers: what they are closed to, and what they survive
	COUNTERSIGN_COMPOSE="$(COMPOSE)" go test -race -count=1 -timeout=15m -v ./e2e/compose

# The version of the official images that compose.spire.yaml names.
SPIRE_VERSION := 1.15.3

.PHONY: compose-spire-test
compose-spire-test: ## Test the mesh in containers on SPIRE, with the server and agent in the directory SPIRE_BIN
	@if [[ -n "$(SPIRE_BIN)" ]]; then $(MAKE) compose-spire-run; \
	else echo "SKIP: SPIRE_BIN is not set; right would be the directory with spire-server and spire-agent of SPIRE $(SPIRE_VERSION)"; fi

.PHONY: compose-spire-run
compose-spire-run: compose-build $(TOOLS)/grpcurl $(VALIDATE_PROTO)
	tools/spire-images.sh "$(SPIRE_BIN)" $(SPIRE_VERSION)
	COUNTERSIGN_COMPOSE="$(COMPOSE)" COUNTERSIGN_SPIRE_IMAGES=$(SPIRE_VERSION) go test -race -count=1 -timeout=15m -v -run '^TestContainersOnSPIRE$$' ./e2e/compose

.PHONY: compose-arm64
compose-arm64: compose-tool golang-image ## Build the images for linux/arm64, tagged arm64, and look at what is in them
	COUNTERSIGN_TAG=arm64 DOCKER_DEFAULT_PLATFORM=linux/arm64 $(MESH) build
	COUNTERSIGN_IMAGES_ARM64=arm64 go test -count=1 -v -run '^TestArm64$$' ./e2e/compose

##### Tests

.PHONY: test
test: ## Vet and test all modules, with the race detector; starts the real binaries too. Without PostgreSQL (`make postgres`) some are skipped, and those on SPIRE without SPIRE_BIN
	go vet work
	go test -race -timeout=20m work
	go test ./pkg/transport # what cannot run under the race detector; see bubble_test.go there

.PHONY: postgres
postgres: ## Fetch PostgreSQL for the tests where there is none, and say where it is
	@$(POSTGRES)

.PHONY: e2e
e2e: ## Test the real binaries only, and say what each test saw
	go test -count=1 -v ./e2e/...

.PHONY: spire-test
spire-test: ## Test the mesh on SPIRE, with the server and agent in the directory SPIRE_BIN, and say what was seen
	SPIRE_BIN="$(SPIRE_BIN)" go test -race -count=1 -timeout=20m -v -run SPIRE ./e2e

.PHONY: soak
soak: ## Test rotation, outage and revocation with the real binaries for long (SOAK=10m), then thousands of connections; say what was seen
	COUNTERSIGN_SOAK=$${SOAK:-10m} go test -race -count=1 -timeout=2h -v -run '^Test(Rotation|AuthorityOutage|AuthorityKilled|Revocation)$$' ./e2e
	COUNTERSIGN_SOAK=$${SOAK:-10m} go test -count=1 -timeout=1h -v -run '^Test(NothingIsLeftOfManyConnections|MalformedHandshakes)$$' ./pkg/transport

.PHONY: soak-bank
soak-bank: ## Kill the ledger, payments and the database hundreds of times while customers pay, and cut off those who watch; say what was seen
	COUNTERSIGN_SOAK=$${SOAK:-10m} go test -race -count=1 -timeout=2h -v -run '^Test(KilledAtRandom|TwoReplicas|WatchesAreWhole|ReadersWhoDoNotRead)$$' ./e2e

.PHONY: bench
bench: ## Run all benchmarks
	go test -run '^$$' -bench . -benchmem ./... $(addsuffix /...,$(addprefix ./services/,$(SERVICES)))

.PHONY: bench-authz
bench-authz: ## Measure a decision beside grpc-go authz, casbin and cedar-go, with the same rules (FLAGS=-help)
	go run ./bench/authz $(FLAGS)

.PHONY: bench-ledger
bench-ledger: ## Measure transfers a second beside what the databases do by themselves, and write docs/benchmarks-ledger.md (FLAGS=-help)
	go run ./services/ledger/bench -write docs/benchmarks-ledger.md $(FLAGS)

# What the pages are made of: each test that names a requirement is in one of these packages and has one of these words.
CONFORMANCE_PAGES := spiffe-conformance token-conformance
SPIFFE_PACKAGES := ./pkg/identity
SPIFFE_TESTS := [Vv]erif|Revok|Workload
TOKEN_PACKAGES := ./pkg/userauth
TOKEN_TESTS := Attacks|LetIn|Header|Key|Certificate|HandlerAsksFor|URL

.PHONY: conformance
conformance: $(CONFORMANCE_PAGES:%=bin/%.md) ## Write docs/spiffe-conformance.md and docs/token-conformance.md from the results of the tests
	cp $^ docs/

.PHONY: conformance-check
conformance-check: $(CONFORMANCE_PAGES:%=bin/%.md) ## Fail when a requirement of the SPIFFE standards or of those of tokens is not held, or the pages do not say so
	@for page in $(CONFORMANCE_PAGES); do echo "diff docs/$$page.md bin/$$page.md"; diff docs/$$page.md bin/$$page.md || exit 1; done

# The generator says which test failed, and shows what it said.
.PHONY: bin/spiffe-conformance.md
bin/spiffe-conformance.md:
	go test -count=1 -json -run '$(SPIFFE_TESTS)' $(SPIFFE_PACKAGES) > bin/conformance.json || true
	go run ./docs/conformance docs/conformance/spiffe.yaml < bin/conformance.json > $@

.PHONY: bin/token-conformance.md
bin/token-conformance.md:
	go test -count=1 -json -run '$(TOKEN_TESTS)' $(TOKEN_PACKAGES) > bin/token-conformance.json || true
	go run ./docs/conformance docs/conformance/tokens.yaml < bin/token-conformance.json > $@

# A test holds the page to the policy.
.PHONY: policy-matrix
policy-matrix: ## Write docs/policy-matrix.md, who may call what in the bank, from its policy
	@mkdir -p bin
	go run ./cmd/countersign policy matrix --policy deploy/policy/bank.yaml --format markdown > bin/policy-matrix.md
	cp bin/policy-matrix.md docs/policy-matrix.md

# The files of pkg/policy that decide who is let in.
MUTATED := pattern.go rules.go decide.go reason.go user.go dial.go coverage.go condition.go cost.go parse.go parserules.go source.go policy.go

# It takes a quarter of an hour, so it is no part of ci.
.PHONY: mutate
mutate: ## Make one small mistake after the other in pkg/policy, fail when its tests do not notice one, and write docs/policy-mutations.md
	@mkdir -p bin
	go run ./docs/mutations -equivalent docs/mutations/policy.txt -args -rapid.nofailfile pkg/policy $(MUTATED) > bin/policy-mutations.md
	cp bin/policy-mutations.md docs/policy-mutations.md

##### Contracts

.PHONY: generate
generate: $(BUF) $(PLUGINS) $(VALIDATE_PROTO) ## Generate proto/gen, the gateway's REST routes, their OpenAPI document and the schemas for editors from the contracts
	$(BUF) generate
	$(BUF) generate --template buf.gen.edge.yaml

.PHONY: generate-check
generate-check: $(BUF) $(PLUGINS) $(VALIDATE_PROTO) ## Fail when what is generated is not what the contracts generate
	@rm -rf bin/generated
	$(BUF) generate --output bin/generated
	$(BUF) generate --output bin/generated --template buf.gen.edge.yaml
	diff -r proto/gen bin/generated/proto/gen
	diff -r deploy/policy/schema bin/generated/deploy/policy/schema
	diff -r services/gateway/internal/rest/mobilev1 bin/generated/services/gateway/internal/rest/mobilev1
	diff -r docs/openapi bin/generated/docs/openapi
	@rm -rf bin/generated

.PHONY: breaking
breaking: $(BUF) $(VALIDATE_PROTO) ## Compare the contracts with the last release, or with AGAINST=<commit>
	@against="$${AGAINST:-$$(git describe --tags --abbrev=0 2>/dev/null || true)}"; \
	if [[ -z "$$against" ]]; then echo "breaking: nothing was released yet, so there is nothing to break"; exit 0; fi; \
	rm -rf bin/against && mkdir -p bin/against/proto/.imports && \
	git archive -o bin/against.tar "$$against" buf.yaml proto && tar -x -C bin/against -f bin/against.tar && \
	cp -R proto/.imports/. bin/against/proto/.imports && \
	echo "$(BUF) breaking --against bin/against # $$against" && $(BUF) breaking --against bin/against

$(VALIDATE_PROTO): Makefile
	@mkdir -p $(@D)
	@module="$$(go mod download -json $(VALIDATE_MODULE))" || { echo "$$module" >&2; exit 1; }; \
	grep -qF '"Sum": "$(VALIDATE_SUM)"' <<<"$$module" || { echo "$(VALIDATE_MODULE) is not the module that was pinned: $$module" >&2; exit 1; }; \
	dir="$$(sed -n 's/^.*"Dir": "\(.*\)".*$$/\1/p' <<<"$$module")"; \
	rm -f $@ && cp "$$dir/proto/protovalidate/buf/validate/validate.proto" $@ && chmod u+w $@ && touch $@

##### Order

.PHONY: format
format: $(BUF) $(LINT) $(VALIDATE_PROTO) ## Format Go and proto files
	$(BUF) format -w
	@for module in $(MODULES); do (cd $$module && $(LINT) fmt) || exit 1; done

.PHONY: lint
lint: $(BUF) $(LINT) $(VALIDATE_PROTO) ## Lint Go and proto files
	$(BUF) lint
	$(BUF) format -d --exit-code
	$(LINT) config verify
	@failed=; for module in $(MODULES); do \
		echo "golangci-lint run # in $$module"; (cd $$module && $(LINT) run) || failed=1; \
	done; [[ -z "$$failed" ]]

.PHONY: tidy
tidy: ## Tidy every go.mod
	@for module in $(MODULES) $(TOOL_MODULES); do echo "go mod tidy # in $$module"; (cd $$module && GOWORK=off go mod tidy) || exit 1; done

.PHONY: tidy-check
tidy-check: ## Fail when a go.mod is not tidy
	@failed=; for module in $(MODULES) $(TOOL_MODULES); do \
		echo "go mod tidy -diff # in $$module"; (cd $$module && GOWORK=off go mod tidy -diff) || failed=1; \
	done; [[ -z "$$failed" ]]

.PHONY: standalone
standalone: ## Build each module without the workspace, as its users do
	@for module in $(MODULES); do echo "GOWORK=off go build # in $$module"; (cd $$module && GOWORK=off go build -buildvcs=false -o /dev/null ./...) || exit 1; done

.PHONY: cross
cross: ## Build every service and the CLI for the other platforms into bin/cross/
	@for platform in $(PLATFORMS); do \
		echo "go build # for $$platform"; \
		out=bin/cross/$${platform/\//-}; mkdir -p $$out; \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} go build $(BUILD_FLAGS) -o $$out/ $(MAINS) || exit 1; \
	done

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## Look for known vulnerabilities in what is reached
	@tools/vuln.sh $(CURDIR)/$(TOOLS)/govulncheck $(MODULES)

.PHONY: alerts
alerts: ## Check the alert rules and the Prometheus configuration, and test the rules
	$(PROMTOOL) check rules deploy/observability/alerts.yaml
	$(PROMTOOL) check config deploy/observability/prometheus.yaml
	$(PROMTOOL) test rules deploy/observability/alerts_test.yaml

.PHONY: ci
ci: ## All that has to pass before a change goes in, with nothing skipped
	@$(POSTGRES) >/dev/null
	@export CI=true; for step in generate-check conformance-check lint tidy-check standalone cross alerts test compose-test compose-arm64 vuln; do \
		echo "=== $$step"; start=$$SECONDS; $(MAKE) $$step || exit 1; echo "--- $$step: $$((SECONDS - start)) s"; \
	done

.PHONY: clean
clean: ## Remove what was built, but not the tools
	@find bin -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} + 2>/dev/null || true

##### Tools, each pinned in a module of its own because their dependencies do not mix

.PHONY: tools
tools: $(BUF) $(LINT) $(PLUGINS) $(TOOLS)/grpcurl $(TOOLS)/govulncheck ## Build the tools that the other targets need

# $(call build-tool,module): each tool is older than its pin or up to date.
build-tool = cd tools/$(1) && GOWORK=off go build $(BUILD_FLAGS) -o $(CURDIR)/$(TOOLS)/ tool && touch $(foreach tool,$(2),$(CURDIR)/$(TOOLS)/$(tool))

$(BUF): tools/buf/go.mod
	$(call build-tool,buf,buf)

$(GO_PLUGINS): tools/protoc/go.mod
	$(call build-tool,protoc,$(notdir $(GO_PLUGINS)))

$(SCHEMA_PLUGINS): tools/jsonschema/go.mod $(wildcard tools/jsonschema/*/*.go)
	$(call build-tool,jsonschema,protoc-gen-jsonschema protoc-gen-editorschema)

$(LINT): tools/golangci-lint/go.mod
	$(call build-tool,golangci-lint,golangci-lint)

$(TOOLS)/grpcurl: tools/grpcurl/go.mod
	$(call build-tool,grpcurl,grpcurl)

$(TOOLS)/govulncheck: tools/govulncheck/go.mod
	$(call build-tool,govulncheck,govulncheck)

# The command's package has another name, and only its own build says which version it is.
$(TOOLS)/docker-compose: tools/compose/go.mod
	cd tools/compose && version=$$(GOWORK=off go list -m -f '{{.Version}}' github.com/docker/compose/v2) && \
		GOWORK=off go build -trimpath -buildvcs=false -ldflags="-s -w -X github.com/docker/compose/v2/internal.Version=$$version" \
		-o $(CURDIR)/$@ github.com/docker/compose/v2/cmd && touch $(CURDIR)/$@
