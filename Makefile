# Each target is a thin call of a script in ci/, so that people and CI run the same thing.
.DEFAULT_GOAL := help
.PHONY: help demo test check all loom shuttle numa asan instructions bench paired compare deny docs miri plots

FILE ?=
ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

demo: ## real items into SQLite, with a report that balances (FILE=… for your own NDJSON)
	@ci/demo.sh $(if $(FILE),"$(FILE)")

test: ## everything that proves the protocols, in default bounds
	@ci/test.sh

check: ## format, lints, documentation, dependencies
	@ci/check.sh

all: ## what CI runs: check, then test, then numa
	@ci/all.sh

loom: ## models of the protocols, stock and patched loom, every mutant killed (ARGS=… see ci/loom.sh)
	@ci/loom.sh $(ARGS)

shuttle: ## random schedules of larger shapes
	@ci/shuttle.sh $(ARGS)

numa: ## checks on an emulated machine with several NUMA nodes, every mutant killed (ARGS="[MACHINE…]")
	@ci/numa.sh $(ARGS)

asan: ## the stress test under AddressSanitizer (nightly toolchain)
	@ci/asan.sh $(ARGS)

instructions: ## instructions and cache-line writes of each item, against a baseline (ARGS="--renew"; valgrind)
	@ci/instructions.sh $(ARGS)

bench: ## measurements of our own (ARGS="[--quick] [BENCH…]", see ci/bench.sh)
	@ci/bench.sh $(ARGS)

paired: ## the speed of adding against an earlier commit, in pairs (ARGS="REV [ROUNDS]")
	@ci/paired.sh $(ARGS)

compare: ## the same work through us and through the peers (ARGS="--rounds N --only NAME …"; see --help)
	@ci/compare.sh $(ARGS)

deny: ## licences, sources and bans of the dependencies
	@ci/deny.sh

docs: ## the book, into target/book
	@ci/docs.sh

miri: ## unit tests of the ring under Miri, where it is installed
	@ci/miri.sh $(ARGS)

plots: ## the figures of docs/failure: tables from simulations, drawn as SVG
	@ci/plots.sh
