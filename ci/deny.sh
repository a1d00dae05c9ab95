#!/usr/bin/env bash
# Proves that every dependency has a licence we accept, comes from crates.io, and is not on our list of bans (deny.toml);
# and that no feature of the library but `tokio` brings an async runtime, which its tests and examples do use.
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
deny numa-tests/Cargo.toml licenses sources
deny benches/compare/Cargo.toml licenses sources
deny benches/instructions/Cargo.toml licenses sources

# deny.toml sees the workspace as a whole and leaves out what tests need; this asks for the library alone.
tree="$(cargo tree --locked -p sluicegate -e normal --all-features --target all --prefix none --format '{p}')"
grep -q '^tracing ' <<<"$tree" || die "cargo tree does not show what the library depends on"
if grep -E '^(async-std|smol|axum|hyper) ' <<<"$tree"; then
    die "the library depends on an async runtime; a sink that needs one is a crate of its own"
fi
# The feature `tokio` is for async sinks, which need a runtime anyhow, and it brings timers and no sockets. Nobody else
# pays for it.
grep -q '^tokio ' <<<"$tree" || die "cargo tree does not show what the feature tokio brings"
others="$(sed -n '/^\[features\]/,/^\[/s/^\([a-z]*\) = .*/\1/p' Cargo.toml | grep -v '^tokio$' | paste -sd,)"
[ -n "$others" ] || die "no features found in Cargo.toml"
if cargo tree --locked -p sluicegate -e normal --features "$others" --target all --prefix none --format '{p}' |
    grep '^tokio '; then
    die "the library depends on tokio without its feature tokio"
fi
cargo tree --locked -p sluicegate -e normal --features tokio --target all --prefix none --format '{p} {f}' |
    grep -qE '^tokio v[^ ]+ rt,time$' || die "the feature tokio turns on more of tokio than rt and time"
say "the library brings: $(cargo tree --locked -p sluicegate -e normal --all-features --depth 1 --prefix none \
    --format '{p}' | sed 1d | cut -d' ' -f1 | sort -u | tr '\n' ' ')"
