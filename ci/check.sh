#!/usr/bin/env bash
# Proves that unsafe code and ordering atomics stay in their rooms, that the code has one format, that no lint fires,
# under `--cfg loom` too, that the library builds without its features, that every link in the documentation leads
# somewhere, and that the dependencies keep to deny.toml.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

model_format() { cargo fmt --manifest-path loom-tests/Cargo.toml --check; }
model_lints() {
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="$TARGET/loom-stock" \
        cargo clippy --manifest-path loom-tests/Cargo.toml --locked --tests -- -D warnings
}
documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --locked; }
numa_format() { cargo fmt --manifest-path numa-tests/Cargo.toml --check; }
numa_lints() {
    [ "$(uname -sm)" = "Linux x86_64" ] || { say "left out: they build on Linux on x86-64 only"; return 0; }
    CARGO_TARGET_DIR="$TARGET/numa/build" \
        cargo clippy --manifest-path numa-tests/Cargo.toml --locked --all-targets -- -D warnings
}
compare_format() { cargo fmt --manifest-path benches/compare/Cargo.toml --check; }
counts_format() { cargo fmt --manifest-path benches/instructions/Cargo.toml --check; }
counts_lints() {
    CARGO_TARGET_DIR="$TARGET/instructions" \
        cargo clippy --manifest-path benches/instructions/Cargo.toml --locked --all-targets -- -D warnings
}

step "rooms" ci/rooms.sh
step "format" cargo fmt --all --check
step "lints" cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
step "lints without features" cargo clippy -p sluicegate --lib --no-default-features --locked -- -D warnings
if [ -f loom-tests/Cargo.toml ]; then
    step "format of the models" model_format
    step "lints of the models" model_lints
fi
step "format of the NUMA checks" numa_format
step "lints of the NUMA checks" numa_lints
step "format of the comparison" compare_format
step "format of the instruction counts" counts_format
step "lints of the instruction counts" counts_lints
step "documentation" documentation
step "dependencies" ci/deny.sh
