#!/usr/bin/env bash
# Proves that every page of examples/ runs by itself, ends within a minute, and that what it claims is so: each checks
# itself and says so with its exit code.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

need timeout coreutils
messages="$TARGET/examples.json"
mkdir -p "$TARGET"
cargo build --examples --all-features --locked --message-format=json-render-diagnostics >"$messages"

failed=0
for source in examples/*.rs; do
    name="$(basename "$source" .rs)"
    binary="$(sed -n 's|.*"executable":"\([^"]*/examples/'"$name"'\)".*|\1|p' "$messages" | tail -n 1)"
    [ -x "$binary" ] || die "cargo built no example '$name'"
    printf '\n-- %s\n' "$name"
    timeout 60 "$binary" || { code=$?; say "$name: exit code $code"; failed=1; }
done
exit "$failed"
