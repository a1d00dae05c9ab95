#!/usr/bin/env bash
# Measures whether adding is as fast as it was: the bench `paired` on this tree, uncommitted changes included, against
# the same bench on the engine of an earlier commit. Proves nothing.
#
# The two binaries take turns, A B B A A B …, so that what changes with time (load, clock and place of the virtual CPUs)
# hits both. Neighbours are a pair; the result is the median of the ratios of the pairs, with its quartiles. Each run
# probes the distance between CPUs, before and after; a pair whose four probes differ by more than PROBE_FACTOR is left
# out, and counted.
#
# The noise shows in a run of as many rounds against a commit with the same code (HEAD, in a clean tree). With few
# rounds the quartiles, too, are chance. `add_many_64` spreads most: there the queue is full, and the flusher decides.
# On a machine with many CPUs, name two close ones: `taskset -c 2,3 ci/paired.sh …`.
#
# The base is checked out below the target directory and removed at the end; what was built stays, for the next run.
#
# usage: ci/paired.sh BASE-REV [ROUNDS]   (21 rounds: a minute or more, after the builds)
# environment: PROBE_FACTOR (1.5)
set -euo pipefail
. "$(dirname "$0")/setup.sh"

case $# in 1 | 2) ;; *) die "usage: ci/paired.sh BASE-REV [ROUNDS]" ;; esac
rounds="${2:-21}"
[[ "$rounds" =~ ^[1-9][0-9]*$ ]] || die "not a number of rounds: $rounds"
need git git
need flock util-linux
base="$(git rev-parse --verify --quiet --end-of-options "$1^{commit}")" || die "no such commit: $1"

SHAPES=("add 1" "add 2" "add_many_64 1" "try_add 1")
PROBE_FACTOR="${PROBE_FACTOR:-1.5}"
WORK="$TARGET/paired"
TREE="$WORK/tree"
RUNS="$WORK/runs" # round, side, and what the bench printed

mkdir -p "$WORK"
exec 9>"$WORK/lock"
flock --nonblock 9 || die "another run is going on, and would disturb this one"

remove_tree() {
    git worktree remove --force "$TREE" 2>/dev/null || rm -rf "$TREE"
}

check_out() { # the base, with the bench of this tree
    remove_tree # of a run that was killed
    git worktree add --quiet --force --detach "$TREE" "$base"
    cp benches/paired.rs "$TREE/benches/paired.rs"
    grep -q '^name = "paired"$' "$TREE/Cargo.toml" \
        || printf '\n[[bench]]\nname = "paired"\nharness = false\n' >>"$TREE/Cargo.toml"
}

# build DIRECTORY SIDE: builds the bench there; sets $binary. Paths of both sides are of one length, since a longer
# argv[0] moves the stack.
build() {
    local target="$WORK/target-$2"
    local messages="$target/messages.json"
    mkdir -p "$target"
    (cd "$1" && CARGO_TARGET_DIR="$target" cargo build --release --locked -p sluicegate --bench paired \
        --message-format=json-render-diagnostics) >"$messages"
    binary="$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$messages" | tail -n 1)"
    [ -x "$binary" ] || die "cargo built no bench 'paired' in $1"
}

run() { # ROUND SIDE BINARY SHAPE…
    local round="$1" side="$2" line
    shift 2
    line="$("$@")"
    printf '%s %s %s\n' "$round" "$side" "$line" >>"$RUNS"
}

take_turns() {
    local round shape words
    : >"$RUNS"
    for round in $(seq "$rounds"); do
        for shape in "${SHAPES[@]}"; do
            read -ra words <<<"$shape"
            if [ $((round % 2)) -eq 1 ]; then
                run "$round" base "$base_binary" "${words[@]}"
                run "$round" this "$this_binary" "${words[@]}"
            else
                run "$round" this "$this_binary" "${words[@]}"
                run "$round" base "$base_binary" "${words[@]}"
            fi
        done
        printf .
    done
    printf '\n'
}

table() { # of $RUNS: ROUND SIDE SHAPE "ns_per_item" NS "probe_ns" BEFORE AFTER
    awk -v factor="$PROBE_FACTOR" '
        function sort(a, n,    i, j, x) {
            for (i = 2; i <= n; i++) {
                x = a[i]
                for (j = i - 1; j >= 1 && a[j] > x; j--) a[j + 1] = a[j]
                a[j + 1] = x
            }
        }
        function quantile(a, n, q,    h, i) { # of a sorted array, interpolated
            h = 1 + (n - 1) * q
            i = int(h)
            return i < n ? a[i] + (h - i) * (a[i + 1] - a[i]) : a[n]
        }
        NF != 8 || $4 != "ns_per_item" || $6 != "probe_ns" { print "not a result: " $0; bad = 1; exit 1 }
        {
            if (!($3 in seen)) { seen[$3] = 1; shapes[++count] = $3 }
            if ($1 > rounds) rounds = $1
            ns[$3, $1, $2] = $5
            key = $3 SUBSEP $1
            for (i = 7; i <= 8; i++) {
                probes[++probed] = $i + 0
                if (!(key in low) || $i + 0 < low[key]) low[key] = $i + 0
                if (!(key in high) || $i + 0 > high[key]) high[key] = $i + 0
            }
        }
        END {
            if (bad) exit 1
            printf "\n%-14s %9s %9s %10s  %-15s %6s %9s\n", \
                "shape", "base ns", "this ns", "this/base", "quartiles", "pairs", "left out"
            for (s = 1; s <= count; s++) {
                shape = shapes[s]
                n = 0
                for (r = 1; r <= rounds; r++) {
                    key = shape SUBSEP r
                    if (high[key] > factor * low[key]) continue
                    n++
                    base[n] = ns[shape, r, "base"]
                    this[n] = ns[shape, r, "this"]
                    ratio[n] = base[n] / this[n]
                }
                if (n == 0) {
                    printf "%-14s %9s %9s %10s  %-15s %6d %9d\n", shape, "-", "-", "-", "-", 0, rounds
                    continue
                }
                sort(base, n); sort(this, n); sort(ratio, n)
                printf "%-14s %9.2f %9.2f %10.3f  %.3f … %.3f   %6d %9d\n", shape, \
                    quantile(base, n, 0.5), quantile(this, n, 0.5), quantile(ratio, n, 0.5), \
                    quantile(ratio, n, 0.25), quantile(ratio, n, 0.75), n, rounds - n
            }
            sort(probes, probed)
            print "this/base: ratio of throughputs, more than 1 is faster"
            printf "probe: median %.0f ns, from %.0f to %.0f\n", \
                quantile(probes, probed, 0.5), probes[1], probes[probed]
        }' "$RUNS"
}

trap remove_tree EXIT
check_out
step "build of the base" build "$TREE" base
base_binary="$binary"
step "build of this tree" build "$ROOT" this
this_binary="$binary"
say
say "base: $(git log -1 --format='%h %s' "$base")"
say "this: $(git describe --always --dirty --exclude='*') $(git log -1 --format=%s)"
step "$rounds rounds of ${#SHAPES[@]} shapes" take_turns
table
