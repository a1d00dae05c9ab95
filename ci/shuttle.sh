#!/usr/bin/env bash
# Looks for wrong interleavings in shapes too big for loom: more threads, more items, random schedules (shuttle).
# Sequential consistency only: it says nothing about memory orderings, which loom checks.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

unset SLUICEGATE_MUTANT
export RUSTFLAGS="--cfg shuttle"
export CARGO_TARGET_DIR="$TARGET/shuttle"
cargo test --manifest-path loom-tests/Cargo.toml --locked --release --test shuttle "$@"
