#!/usr/bin/env bash
# Proves that every dependency has a licence we accept, comes from crates.io, and is not on our list of bans (deny.toml).
# The advisory database is not asked: it lives outside crates.io. Where it can be reached: `cargo deny check advisories`.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

crate_tool cargo-deny cargo-deny 0.20.2
deny() { # MANIFEST CHECK…
    local manifest="$1"
    shift
    cargo fetch --locked --quiet --manifest-path "$manifest"
    cargo deny --locked --manifest-path "$manifest" --config "$ROOT/deny.toml" check "$@"
}
deny Cargo.toml bans licenses sources
if [ -f loom-tests/Cargo.toml ]; then deny loom-tests/Cargo.toml licenses sources; fi
