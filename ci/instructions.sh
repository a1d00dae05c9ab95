#!/usr/bin/env bash
# Proves that adding, draining and idling take no more instructions than they did: counts them under valgrind
# (benches/instructions) and compares with benches/instructions/baseline.tsv. More than 3 % more, in any case, fails.
# Cache lines written are counted and printed, too; another number of them is told, and does not fail.
#
# A count is the same run after run, whatever else the machine does. It depends on the code of the library, and on the
# toolchain: with another rustc than the baseline's it says so, and compares all the same.
#
# Each run proves that it would fail, with a regression of `add` made on purpose: that case must fail, and no other.
#
# Valgrind is asked for on Linux on x86-64 only, where the baseline is from. Elsewhere the script says so and succeeds;
# with CI set it fails, because there the proof is owed.
#
# usage: ci/instructions.sh [--prove | --renew]   (--prove: only that it would fail; --renew: writes the baseline)
set -euo pipefail
. "$(dirname "$0")/setup.sh"

case "$*" in "" | --prove | --renew) ;; *) die "usage: ci/instructions.sh [--prove | --renew]" ;; esac
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    [ -z "${CI:-}" ] || die "instructions were not counted: this is $(uname -sm). CI is set, so this is a failure."
    say "Instructions were NOT counted: the baseline is of Linux on x86-64, and this is $(uname -sm)."
    exit 0
fi
need valgrind valgrind

unset RUSTFLAGS # with other flags it is other code
export CARGO_TARGET_DIR="$TARGET/instructions"
MANIFEST=benches/instructions/Cargo.toml
BASELINE=benches/instructions/baseline.tsv
NOW="$CARGO_TARGET_DIR/now.tsv"
PLANTED="$CARGO_TARGET_DIR/planted.tsv"
instructions="$CARGO_TARGET_DIR/release/instructions"

# With the planted regression, compared with the counts of this same build: no toolchain is in between.
prove() {
    local why
    "$instructions" plant "$NOW" "$PLANTED"
    if why="$("$instructions" compare "$NOW" "$PLANTED" 2>&1 >"$CARGO_TARGET_DIR/planted.log")"; then
        die "the regression made on purpose has passed"
    fi
    [ "$why" = "more than 3 % more instructions: add" ] || die "the regression made on purpose has failed with: $why"
    grep '^add ' "$CARGO_TARGET_DIR/planted.log"
}

step "tests of the comparison" cargo test --manifest-path "$MANIFEST" --release --lib --locked --quiet
step "build" cargo build --manifest-path "$MANIFEST" --release --locked
if [ "${1:-}" = --renew ]; then
    step "count" "$instructions" count "$BASELINE"
    cat "$BASELINE"
    exit 0
fi
step "count" "$instructions" count "$NOW"
[ $# -gt 0 ] || step "comparison" "$instructions" compare "$BASELINE" "$NOW"
step "comparison with a planted regression, which must fail" prove
