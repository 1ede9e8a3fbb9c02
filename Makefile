# Everything that continuous integration runs is in .ci/run; these are the parts that one runs while working.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
WORKFLOWCHECK := go.temporal.io/sdk/contrib/tools/workflowcheck@v0.6.0
FUZZTIME := 100000x

.PHONY: build check test race lint fuzz bench screenshots

build:
	go build -o tocsin ./cmd/tocsin

check:
	.ci/run

test:
	go test ./...

# The packages that link the Temporal server are left out: building it with the race detector takes longer than all the rest.
race:
	go list ./... | grep -Ev '/(internal/temporal|internal/app|cmd/tocsin)$$' | xargs go test -race -timeout 30m

lint:
	go run $(GOLANGCI_LINT) run ./...
	go vet ./...
	go run $(WORKFLOWCHECK) -config .ci/workflowcheck.yaml ./workflows/...
	go mod tidy -diff

fuzz:
	@set -e; git grep -oE --untracked '^func Fuzz\w+' -- '*_test.go' | sed 's/:func / /' | while read -r file target; do \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2x "./$$(dirname $$file)" </dev/null; done

bench:
	go test -run '^$$' -bench . -benchmem ./...

# Needs chromium. TOCSIN_SHOTS names the folder that they are written to.
screenshots:
	mkdir -p docs/img
	TOCSIN_SHOTS=$(CURDIR)/docs/img go test -count=1 -run Shots ./ui
