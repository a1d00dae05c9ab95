#!/usr/bin/env bash
# Measures our own code, and writes docs/performance/bench.csv, bench.md, engine.svg and latency.svg. Proves only that
# every item arrives: each bench checks count and sum. The same work through peers: ci/compare.sh.
#
# The turns of a bench come one after the other, round after round; probes around each turn tell how far apart the CPUs
# are. The machine should have nothing else to do: turns during which another program has a CPU are labelled, and left
# out where there are others. Each figure is of the tree as it is, uncommitted changes included.
#
# A quick run, or one of some benches only, writes below the target directory instead: it is not the whole picture.
# One bench with the turns of your choice, without any file: `cargo bench --bench engine -- add_with_ack`.
#
# usage: ci/bench.sh [--quick] [--out FOLDER] [BENCH…]   (less than ten minutes, after the build)
#   --quick   few and short rounds: shows in a minute that it works
#   BENCH     of: ring engine acks shards latency wake idle sqlite
set -euo pipefail
. "$(dirname "$0")/setup.sh"

BENCHES=(ring engine acks shards latency wake idle sqlite)
WORK="$TARGET/bench"
given="$*"
out=""
chosen=()
while [ $# -gt 0 ]; do
    case "$1" in
        --quick) export SLUICEGATE_BENCH_QUICK=1 ;;
        --out)
            [ $# -ge 2 ] || die "--out needs a folder"
            out="$2"
            shift
            ;;
        *)
            [[ " ${BENCHES[*]} " == *" $1 "* ]] || die "no such bench: $1; there are ${BENCHES[*]}"
            chosen+=("$1")
            ;;
    esac
    shift
done
if [ -z "$out" ]; then
    out="$WORK"
    [ ${#chosen[@]} -gt 0 ] || [ -n "${SLUICEGATE_BENCH_QUICK:-}" ] || out=docs/performance
fi
[ ${#chosen[@]} -gt 0 ] || chosen=("${BENCHES[@]}")

need flock util-linux
mkdir -p "$WORK" "$out"
out="$(cd "$out" && pwd)" # cargo runs a bench in the folder of its package
exec 9>"$WORK/lock"
flock --nonblock 9 || die "another run is going on, and would disturb this one"

export SLUICEGATE_BENCH_CSV="$WORK/raw.csv" CRITERION_HOME="$WORK/criterion"
rm -rf "$SLUICEGATE_BENCH_CSV" "$CRITERION_HOME"

# package NAME: the one that has this bench. One at a time, so that each library has its own features and no others.
package() { if [ "$1" = sqlite ]; then printf sluicegate-sqlite; else printf sluicegate; fi; }
# bench NAME [ARGUMENT…]
bench() {
    local name="$1"
    shift
    cargo bench -p "$(package "$name")" --locked --quiet --bench "$name" -- "$@"
}
build() {
    local name
    for name in "${chosen[@]}" report; do
        cargo bench -p "$(package "$name")" --locked --no-run --bench "$name"
    done
}

step "build" build
for name in "${chosen[@]}"; do
    step "$name" bench "$name"
done
step "report" bench report "$SLUICEGATE_BENCH_CSV" "$CRITERION_HOME" "$out" "make bench${given:+ ARGS=\"$given\"}"
