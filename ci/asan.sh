#!/usr/bin/env bash
# Proves that the stress tests touch no memory that is not their own and leak nothing: AddressSanitizer and
# LeakSanitizer over tests/stress.rs, tests/stress_producers.rs and tests/owned_stress.rs, optimised, with debug
# assertions and overflow checks.
#
# Needs a nightly toolchain. Without one it says so and succeeds, so that `make test` runs on stable alone; with CI
# set it fails, because there the proof is owed.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

not_run() {
    if [ -n "${CI:-}" ]; then
        die "AddressSanitizer was not run: $*. CI is set, so this is a failure."
    fi
    say "AddressSanitizer was NOT run: $*."
    exit 0
}

nightly || not_run "it needs a nightly toolchain (rustup toolchain install nightly)"
host="$(rustc +nightly -vV | sed -n 's/^host: //p')"
case "$host" in
    x86_64-unknown-linux-gnu | aarch64-unknown-linux-gnu) ;;
    *) not_run "this script knows it on Linux with glibc only, and this is $host" ;;
esac

export RUSTFLAGS="-Zsanitizer=address"
export CARGO_TARGET_DIR="$TARGET/asan"
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true

# A sanitizer that finds nothing must be one that could: a leak and a use after free have to be reported first.
probe="$CARGO_TARGET_DIR/probe"
mkdir -p "$probe"
cat >"$probe/probe.rs" <<'RUST'
fn main() {
    if std::env::args().nth(1).as_deref() == Some("leak") {
        std::mem::forget(std::hint::black_box(vec![1_u8; 64]));
    } else {
        let freed: *const u8 = std::hint::black_box(&*Box::new(1_u8));
        println!("{}", unsafe { std::hint::black_box(freed).read() });
    }
}
RUST
rustc +nightly --edition 2024 -Zsanitizer=address -o "$probe/probe" "$probe/probe.rs"
if ASAN_OPTIONS=detect_leaks=0 "$probe/probe" use-after-free >"$probe/log" 2>&1 \
    || ! grep -q 'AddressSanitizer: heap-use-after-free' "$probe/log"; then
    not_run "a use after free made on purpose was not reported on this machine"
fi
leaks=0
if ! ASAN_OPTIONS=detect_leaks=1 "$probe/probe" leak >"$probe/log" 2>&1 \
    && grep -q 'LeakSanitizer: detected memory leaks' "$probe/log"; then
    leaks=1
else
    say "LeakSanitizer is OFF: a leak made on purpose was not reported on this machine (it needs ptrace)."
fi
say "AddressSanitizer finds what was planted; leaks are looked for: $leaks"

export ASAN_OPTIONS="detect_leaks=$leaks:${ASAN_OPTIONS:-}"
cargo +nightly test --locked --release --target "$host" -p sluicegate --all-features \
    --test stress --test stress_producers --test owned_stress "$@"
