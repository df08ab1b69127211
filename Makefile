# What a person types. Everything works in a fresh checkout with nothing but Go, make and a shell;
# `make help` lists the targets.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Where goroutines share memory, or tests run them against each other.
RACE_PACKAGES = $(shell $(GO) list ./... | grep -E '/(qcow2|refcount|check|fuzz|internal|qemutest)(/|$$)')

.DEFAULT_GOAL := build
.PHONY: build rescue-bench rescue-docs kills fuzz fuzz-mutants fuzz-native libfuzzer everywhere flips flips-docs test deps lint fmt-check vet staticcheck generate generate-check race demo bench picture-test clean help fleet fleet-slurm dist dist-test

# Most of the memory of a short run is the program itself, which functions on boundaries of 16 bytes make smaller.
build: ## build bin/qcheck, a static binary
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-funcalign=16 -X main.version=$(VERSION)' -o bin/qcheck ./cmd/qcheck

test: deps ## install what the tests need (as root, with apt-get) and run all of them
	$(GO) test -timeout 8m ./...

deps: ## install what the tests need, or say what is missing
	@./.ci/install-deps.sh

lint: fmt-check vet staticcheck ## gofmt, go vet, staticcheck

fmt-check:
	@unformatted=$$(gofmt -l .) || exit 1; \
	if [ -n "$$unformatted" ]; then echo "not formatted (run gofmt -w):"; echo "$$unformatted"; exit 1; fi

vet:
	$(GO) vet ./...

staticcheck:
	$(GO) tool staticcheck ./...

generate: ## make again what is generated (docs/findings.md and others)
	$(GO) generate ./...

generate-check: ## fail if what is generated is not up to date
	@GO='$(GO)' ./.ci/generate-check.sh

# Not the test scripts: each of their lines is a process, which starts slowly under the race detector. Nor what only does the same with many images, or asks QEMU.
race: ## the race detector on the packages that run goroutines (-short: fewer images)
	$(GO) test -race -short -skip '^TestScripts$$|^TestMutants|^TestCrashCorpus$$|^TestHostileImages$$|^FuzzReaders$$|QEMU' -timeout 8m $(RACE_PACKAGES)

KILLS ?= 100

kills: ## real QEMU killed KILLS times (100) in each of many operations, and at every write (takes strace)
	QCHECK_THOROUGH=1 QCHECK_KILLS=$(KILLS) $(GO) test ./check/repair -timeout 0 -v -run 'TestKilledQEMU'

FUZZTIME ?= 5m

fuzz: fuzz-mutants fuzz-native ## thousands of mutants, then each native fuzz target for FUZZTIME (5m)

fuzz-mutants:
	$(GO) test ./fuzz -timeout 0 -run 'TestMutants$$|TestMutantsRepaired$$' -mutants 20000 -repaired 5000

fuzz-native: ## each native fuzz target for FUZZTIME (5m, or a number of runs: 200x)
	@set -e; for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for target in $$($(GO) test $$pkg -list '^Fuzz' | grep '^Fuzz'); do \
			echo "== $$pkg $$target"; \
			$(GO) test $$pkg -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME); \
		done; \
	done

libfuzzer: ## a small C reader under libFuzzer with the custom mutator; takes clang and some minutes
	QCHECK_LIBFUZZER=1 CGO_ENABLED=1 $(GO) test ./fuzz/cmutator -count=1 -v -timeout 15m

# Without tests; what is the same for all of a system's processors is vetted for one.
EVERYWHERE ?= $(foreach os,linux windows darwin openbsd,$(foreach arch,amd64 arm64 386,$(if $(filter darwin/386,$(os)/$(arch)),,$(os)/$(arch))))

everywhere: ## build and vet for every system and processor that is supported; takes some minutes
	@set -e; for at in $(EVERYWHERE); do echo "== $$at"; \
		GOOS=$${at%/*} GOARCH=$${at#*/} CGO_ENABLED=0 $(GO) build ./... ; \
		GOOS=$${at%/*} GOARCH=$${at#*/} CGO_ENABLED=0 $(GO) vet ./... ; \
	done

flips: ## flip every bit of the metadata of images of many kinds, and repair them (see docs/flips.md); takes some minutes
	$(GO) test ./fuzz -timeout 0 -run 'TestFlips$$' -v -flips.every 1 -flips.qemu $(FLIPS)

flips-docs: ## the same, and write what was found to docs/flips.md and to the list of known faults
	$(GO) test ./fuzz -timeout 0 -run 'TestFlips$$' -v -flips.every 1 -flips.qemu -flips.docs -flips.update $(FLIPS)

picture-test: ## open the page of `qcheck map` in a real, headless Chromium (as root it is installed, which takes about a minute)
	@command -v chromium >/dev/null || apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core
	$(GO) test ./report/mapview -run Chromium -picture -count=1 -v

rescue-bench: build ## rescue disks with real file systems in many shapes after many damages, and one of 1 TiB; takes some minutes
	$(GO) test ./cmd/qcheck -timeout 0 -count 1 -run 'TestRescueBench$$|TestRescueLarge$$' -rescue.all -rescue.large $(CURDIR)/bin/qcheck $(RESCUE)

rescue-docs: ## the same without the one of 1 TiB, and write what was measured to docs/rescue-measured.md
	$(GO) test ./cmd/qcheck -timeout 0 -count 1 -run 'TestRescueBench$$' -rescue.all -rescue.docs $(RESCUE)
fleet: ## one process checks 100,000 small images, beside qemu-img; takes some minutes
	$(GO) test ./cmd/qcheck -timeout 0 -run 'TestManyImagesInOneProcess|TestWorkersThatAreKilled' -v -fleet.many 100000 -fleet.images 10000

fleet-slurm: ## the Slurm script on 10,000 images, with the Slurm of this machine (as root)
	$(GO) test ./cmd/qcheck -timeout 20m -run 'TestSlurmArray' -v -fleet.slurm -fleet.images 10000


dist: ## make the release in ./dist: static binaries, deb and rpm, manual pages, completions, bill of materials
	@./.ci/dist.sh dist

dist-test: ## make it twice and compare; install and remove the package on this system (as root)
	@./.ci/dist-test.sh

demo: build ## make a healthy and three broken images in ./demo, check them, repair one and take that back
	@./.ci/demo.sh

bench: build ## measure qcheck against qemu-img (see docs/performance.md); takes some minutes
	$(GO) run ./corpus/bench -qcheck bin/qcheck $(BENCH)

clean: ## remove what the other targets made
	rm -rf bin demo dist

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile
