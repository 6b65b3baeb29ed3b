# CI runs just these. `make nightly` is the long rest.
export CGO_ENABLED = 0

.PHONY: build test
build:
	go build -trimpath -o covey ./cmd/covey
test:
	go test ./...
