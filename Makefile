# CI runs just these; make nightly is the long rest.
export CGO_ENABLED ?= 0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 5s
ROUNDS ?= 20

.PHONY: build test race check fuzz bench bench-peers bench-rows bench-rows-short bench-cluster scenarios containers powercut chaos mutants nightly

build:
	go build -ldflags '-s -w -X main.version=$(VERSION)' -o covey ./cmd/covey

test:
	go test ./...

# The race detector needs cgo, here only.
race:
	CGO_ENABLED=1 go test -race -short -timeout 20m ./...

check:
	@test -z "$$(gofmt -l .)" || { echo 'gofmt these:'; gofmt -l .; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go test -count=1 .

fuzz:
	.ci/fuzz $(FUZZTIME)

bench:
	go test -run '^$$' -bench . -benchmem ./...

# Beside Postfix's smtp-sink and Dovecot, on this machine. For a look:
# make bench-peers PEERS='-rounds 1 -duration 2s -readers 256'
bench-peers:
	go run ./test/figures peers $(PEERS)

# Every other row of docs/performance.md; a run that was broken off goes on from
# the file. One row: go run ./test/figures NAME
bench-rows:
	go run ./test/figures all -json figures.json $(ROWS)

# The rows of several nodes; those of networks and power cuts need root. Resumed as
# bench-rows is.
bench-cluster:
	go run ./test/figures cluster -json cluster.json $(ROWS)

# That all work, in seconds: their figures mean nothing.
bench-rows-short:
	go run ./test/figures all -short
	go run ./test/figures peers -short
	go run ./test/figures cluster -short

# The real binary with real clients: curl, swaks, mbsync, Python's libraries; and
# what takes long with several nodes in one process.
scenarios:
	COVEY_SCENARIOS=1 go test -count=1 -timeout 10m ./test/...
	go test -count=1 -timeout 15m ./node/nodetest -long

# Needs a Docker engine: the compose file, brought up. The image is built in one
# that test/containers/builder.sh makes.
containers:
	COVEY_CONTAINERS=1 go test -count=1 -timeout 40m -run TestCompose -v ./test/containers

# Needs root: loop-mounted ext4, shut down without a log flush.
powercut:
	COVEY_POWERCUT_ROUNDS=$(ROUNDS) go test -count=1 -timeout 0 -run 'TestPowerCut|TestF21' -v ./test/powercut

# Needs root: a cluster of real processes, broken in every way for two minutes, or
# for hours; a long run that was broken off goes on from the file.
HOURS ?=
chaos:
	go run ./test/chaos $(if $(HOURS),-for $(HOURS)h -hold 8s -state chaos.json) $(CHAOS)

# Whether chaos would notice: a program with a planted bug each time, until it is
# caught. MUTANTS='quorum-of-one local-uid' for some of them.
mutants:
	go run ./test/chaos $(CHAOS) mutants $(MUTANTS)

nightly: test race check scenarios
	$(MAKE) fuzz FUZZTIME=10m
	$(MAKE) powercut ROUNDS=200
	$(MAKE) bench
