#!/usr/bin/env bash
# Proves that what needs an argument stays where it is argued for: `unsafe` in src/ring, and in the files of system calls
# of the placement and of the NUMA checks; orderings other than Relaxed in src/ring and src/wait; the originals of atomics, locks and
# cells behind the loom door (src/sync.rs).
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
roots=(src crates)
# stays PATTERN WHAT FILE…: no line of the roots matches, comments aside, but in these files and folders.
stays() {
    local pattern="$1" what="$2" found rooms
    shift 2
    rooms="$(printf '|%s' "$@")"
    found="$(find "${roots[@]}" -name '*.rs' -print0 | sort -z | xargs -0 awk -v pattern="$pattern" -v rooms="^(${rooms#|})" '
        FILENAME ~ rooms || /^ *\/\// { next }
        $0 ~ pattern { print FILENAME ":" FNR ": " $0 }')"
    if [ -n "$found" ]; then
        printf '%s outside its rooms (%s):\n%s\n' "$what" "$*" "$found" >&2
        failed=1
    fi
}

roots+=(numa-tests/src)
stays '(^|[^_[:alnum:]])unsafe([^_[:alnum:]]|$)' "unsafe code" src/ring src/placement/sys.rs numa-tests/src/sys.rs
roots=(src crates)
stays '(^|[^_[:alnum:]])(AcqRel|Acquire|Release|SeqCst)([^_[:alnum:]]|$)' "an ordering" src/ring src/wait src/sync.rs
stays 'std::sync::([{].*)?(atomic|Mutex|Condvar|RwLock)|core::cell|cell::UnsafeCell' "an original" \
    src/sync.rs src/telemetry.rs src/clock.rs crates
exit "$failed"
