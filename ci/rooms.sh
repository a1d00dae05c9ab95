#!/usr/bin/env bash
# Proves that what needs an argument stays where it is argued for: `unsafe` in src/ring, orderings other than Relaxed in
# src/ring and src/wait, the originals of atomics, locks and cells behind the loom door (src/sync.rs).
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
# stays PATTERN WHAT FILE…: no line of the library matches, comments aside, but in these files and folders.
stays() {
    local pattern="$1" what="$2" exclude=()
    shift 2
    for room in "$@"; do exclude+=(":!$room"); done
    local found
    found="$(git grep -nE "$pattern" -- 'src/*.rs' 'crates/*.rs' "${exclude[@]}" | grep -vE '^[^:]+:[0-9]+: *//' || true)"
    if [ -n "$found" ]; then
        printf '%s outside its rooms (%s):\n%s\n' "$what" "$*" "$found" >&2
        failed=1
    fi
}

stays '\bunsafe\b' "unsafe code" src/ring
stays '\b(AcqRel|Acquire|Release|SeqCst)\b' "an ordering" src/ring src/wait src/sync.rs
stays 'std::sync::(atomic|Mutex|Condvar|RwLock)|core::cell|std::cell::UnsafeCell' "an original" \
    src/sync.rs src/telemetry.rs src/clock.rs crates
exit "$failed"
