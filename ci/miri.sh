#!/usr/bin/env bash
# Looks for undefined behaviour in the ring's and the waiters' unit tests with Miri, where Miri is installed.
# Optional, never a gate: without the component it says so and succeeds. Arguments go to `cargo miri test`.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

if ! nightly; then
    say "Miri was not run: no nightly toolchain (rustup toolchain install nightly --component miri,rust-src)."
    exit 0
fi
if ! cargo +nightly miri --version >/dev/null 2>&1; then
    say "Miri was not run: the nightly toolchain lacks it (rustup +nightly component add miri rust-src)."
    exit 0
fi
if [ ! -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ]; then
    say "Miri was not run: the nightly toolchain lacks the sources (rustup +nightly component add rust-src)."
    exit 0
fi
[ $# -gt 0 ] || set -- --lib ring wait
export MIRIFLAGS="${MIRIFLAGS:--Zmiri-strict-provenance -Zmiri-many-seeds=0..16}"
CARGO_TARGET_DIR="$TARGET/miri" cargo +nightly miri test --locked -p sluicegate "$@"
