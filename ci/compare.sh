#!/usr/bin/env bash
# Measures the same work through sluicegate and through what a user could pick instead (benches/compare): items/s, and
# latency at 1 M items/s. Writes docs/performance/compare.csv, .md and .svg, and compare-latency.csv. Proves only that
# every contestant delivers each item once.
#
# All contestants take turns, round after round, each in a process of its own; ratios are taken within a round. Probes
# around each turn tell how far apart the CPUs are. The machine should have nothing else to do: turns during which
# another program has a CPU are labelled, and left out. Each figure is of the tree as it is, uncommitted changes included.
#
# usage: ci/compare.sh [OPTION…]   (--help lists them; a quarter of an hour or more by default, after the build)
set -euo pipefail
. "$(dirname "$0")/setup.sh"

need flock util-linux
export CARGO_TARGET_DIR="$TARGET/compare"
mkdir -p "$CARGO_TARGET_DIR"
exec 9>"$CARGO_TARGET_DIR/lock"
flock --nonblock 9 || die "another run is going on, and would disturb this one"

manifest=benches/compare/Cargo.toml
step "every item arrives" cargo test --manifest-path "$manifest" --locked --quiet
step "build" cargo build --manifest-path "$manifest" --release --locked
step "comparison" "$CARGO_TARGET_DIR/release/compare" "$@"
