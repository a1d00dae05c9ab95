#!/usr/bin/env bash
# Proves the protocols: loom runs every interleaving of the models in loom-tests/tests/loom.rs, within a bound on
# preemptions, and each protocol bug that can be switched on (a mutant) makes the models fail that name it.
#
# Three steps:
#   1. every model passes on stock loom;
#   2. every model passes on loom with the last access kept per thread (loom-tests/per-thread-last-access.patch says
#      why). The patch goes on a copy of cargo's own copy of loom, below the target directory; the models run there
#      from a copy as well, since a patched dependency changes Cargo.lock;
#   3. on patched loom, each mutant of loom-tests/mutants.txt makes each test that it names fail. A mutant that passes
#      has survived; one that runs into the time limit or does not even start gives no verdict. Both fail this script.
#
# loom must not be told to stop early: a run cut short by `max_duration` or `max_permutations` passes without a word.
# So the script takes those out of the environment and refuses models that set them.
#
# mutants.txt: `mutant test [test…]` on a line, `#` starts a comment. The mutant is switched on at run time, by
# SLUICEGATE_MUTANT=name, in code built with `--cfg loom` only.
#
# usage: ci/loom.sh [--no-stock | --no-patched] [--no-mutants] [--stock-mutants]
#   --stock-mutants   also run the mutants on stock loom: shows what stock loom misses, decides nothing
# environment: LOOM_MAX_PREEMPTIONS (2), LOOM_TIMEOUT seconds for all models (1200), MUTANT_TIMEOUT for one run (120)
set -euo pipefail
. "$(dirname "$0")/setup.sh"

stock=1 patched=1 mutants=1 stock_mutants=0
for option in "$@"; do
    case "$option" in
        --no-stock) stock=0 ;;
        --no-patched) patched=0 mutants=0 ;;
        --no-mutants) mutants=0 ;;
        --stock-mutants) stock_mutants=1 ;;
        *) die "unknown option $option (see the head of this script)" ;;
    esac
done

LOOM_VERSION=0.7.3
MODELS="$ROOT/loom-tests"
PATCH="$MODELS/per-thread-last-access.patch"
WORK="$TARGET/loom-patched"
LOOM_TIMEOUT="${LOOM_TIMEOUT:-1200}"
MUTANT_TIMEOUT="${MUTANT_TIMEOUT:-120}"
export LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-2}"
export RUSTFLAGS="--cfg loom"
unset SLUICEGATE_MUTANT LOOM_MAX_DURATION LOOM_MAX_PERMUTATIONS LOOM_CHECKPOINT_FILE

if grep -rnE 'max_(duration|permutations) *=|LOOM_MAX_(DURATION|PERMUTATIONS)' \
    --include='*.rs' "$MODELS/tests" "$MODELS/src" 2>/dev/null; then
    die "models must not cut a run short: loom reports a cut run as passed"
fi

# build DIRECTORY TARGET [CARGO OPTION…]: builds the models there; sets $binary.
build() {
    local directory="$1" target="$2"
    shift 2
    local messages="$target/messages.json"
    mkdir -p "$target"
    (cd "$directory" && CARGO_TARGET_DIR="$target" cargo test --release --test loom --no-run \
        --message-format=json-render-diagnostics "$@") >"$messages"
    binary="$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$messages" | tail -n 1)"
    [ -x "$binary" ] || die "cargo built no test binary 'loom' in $directory"
}

models() { # LABEL BINARY
    local rc=0
    (cd "$MODELS" && timeout "$LOOM_TIMEOUT" "$2") || rc=$?
    [ "$rc" -ne 124 ] || die "the models on $1 ran into the limit of $LOOM_TIMEOUT s: no verdict"
    [ "$rc" -eq 0 ] || die "a model failed on $1"
}

patch_loom() { # a copy of cargo's loom with the patch on; made anew when the patch or the version changes
    local made="$WORK/loom/.made-from" wanted source
    wanted="$LOOM_VERSION $(cksum <"$PATCH")"
    if [ -f "$made" ] && [ "$(cat "$made")" = "$wanted" ]; then return 0; fi
    source="$(cargo metadata --manifest-path "$MODELS/Cargo.toml" --locked --format-version 1 \
        | grep -oE '"manifest_path":"[^"]*/loom-[0-9][^"/]*/Cargo.toml"' | head -n 1 | cut -d '"' -f 4)"
    source="$(dirname "$source")"
    [ "$(basename "$source")" = "loom-$LOOM_VERSION" ] \
        || die "the models are locked to '$(basename "$source")', the patch is for loom-$LOOM_VERSION"
    rm -rf "$WORK/loom"
    mkdir -p "$WORK"
    cp -R "$source" "$WORK/loom"
    patch --quiet --forward --fuzz=0 -p1 -d "$WORK/loom" <"$PATCH" || die "the patch does not apply to $source"
    printf '%s' "$wanted" >"$made"
}

copy_tree() { # what the models are built from, with a Cargo.lock that may change; times kept, so builds stay warm
    rm -rf "$WORK/tree"
    mkdir -p "$WORK/tree"
    tar -C "$ROOT" --exclude=loom-tests/target -cf - Cargo.toml Cargo.lock README.md src benches examples tests crates loom-tests \
        | tar -C "$WORK/tree" -xf -
}

first_panic() { # FILE: the message of the first panic, in one short line
    awk '/panicked at/ { getline; print; exit }' "$1" | tr -s ' \t' ' ' | cut -c 1-60
}

# run_mutant BINARY MUTANT TEST: sets $verdict to killed, SURVIVED or 'no verdict', and $how.
run_mutant() {
    local log="$LOGS/$2-$3.log" rc=0
    { # 2>/dev/null: bash's own line on an aborted child stays out of the table
        (cd "$MODELS" && SLUICEGATE_MUTANT="$2" timeout --kill-after=5 "$MUTANT_TIMEOUT" \
            "$1" --exact "$3" --test-threads=1) >"$log" 2>&1 || rc=$?
    } 2>/dev/null
    how="$(first_panic "$log")"
    if ! grep -q '^running 1 test' "$log"; then
        verdict="no verdict" how="did not start (exit $rc)"
    elif [ "$rc" -eq 0 ] && grep -q '^test result: ok. 1 passed' "$log"; then
        verdict="SURVIVED" how=""
    elif [ "$rc" -eq 124 ] || [ "$rc" -eq 137 ]; then
        verdict="no verdict" how="no end within $MUTANT_TIMEOUT s"
    elif [ "$rc" -eq 101 ] && grep -q '^test result: FAILED' "$log"; then
        verdict="killed"
    elif [ "$rc" -eq 134 ] && [ -n "$how" ]; then
        verdict="killed" how="$how (then abort)" # a panic while unwinding
    else
        verdict="no verdict" how="exit $rc ${how:-without a panic}"
    fi
}

one_mutant() { # BINARY MUTANT TEST: its line of the table
    local begin=$SECONDS verdict how
    run_mutant "$@"
    printf '%-28s %-44s %-10s %7s  %s\n' "$2" "$3" "$verdict" $((SECONDS - begin)) "$how"
}

mutant_runs() { # TESTS: `mutant test` for each run that mutants.txt asks for
    local name names test
    while read -r name names; do
        [ -n "$names" ] || die "mutants.txt: '$name' names no test"
        for test in $names; do
            grep -qxF -- "$test" <<<"$1" || die "mutants.txt: '$name' names '$test', and there is no such test"
            printf '%s %s\n' "$name" "$test"
        done
    done < <(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$MODELS/mutants.txt")
}

# all_mutants LABEL BINARY: the table, as many runs at a time as there are CPUs; returns 1 if a mutant was not killed.
all_mutants() {
    local label="$1" binary="$2" tests test runs killed total
    # `|| return`: called with `|| die`, no failure in here ends the script by itself.
    tests="$("$binary" --list --format terse | sed -n 's/: test$//p')" || return 1
    runs="$(mutant_runs "$tests")" || return 1
    total="$(grep -c . <<<"$runs")" || die "mutants.txt is empty"
    LOGS="$TARGET/mutants"
    rm -rf "$LOGS"
    mkdir -p "$LOGS"
    export LOGS MODELS MUTANT_TIMEOUT
    export -f run_mutant one_mutant first_panic
    printf '\n%-28s %-44s %-10s %7s  %s\n' "mutant ($label)" test verdict seconds "first panic"
    # shellcheck disable=SC2016
    xargs -L 1 -P "$(getconf _NPROCESSORS_ONLN)" "$BASH" -c 'one_mutant "$@"' one_mutant "$binary" <<<"$runs" \
        | tee "$LOGS/table"
    while read -r test; do
        grep -qwF -- "$test" <(sed 's/#.*//' "$MODELS/mutants.txt") || say "note: no mutant names the model $test"
    done <<<"$tests"
    killed="$(awk '$3 == "killed"' "$LOGS/table" | grep -c .)" || true
    say "$label: $killed of $total mutant runs killed"
    [ "$killed" -eq "$total" ]
}

cargo fetch --locked --quiet --manifest-path "$MODELS/Cargo.toml"

if [ "$stock" -eq 1 ] || [ "$stock_mutants" -eq 1 ]; then
    build "$MODELS" "$TARGET/loom-stock" --locked
    stock_binary="$binary"
fi
if [ "$stock" -eq 1 ]; then
    step "models on stock loom $LOOM_VERSION, $LOOM_MAX_PREEMPTIONS preemptions" models "stock loom" "$stock_binary"
fi
if [ "$patched" -eq 1 ]; then
    patch_loom
    copy_tree
    # Offline: the lock file of the copy changes in loom's entry only, nothing else may move.
    build "$WORK/tree/loom-tests" "$WORK/target" --offline --config "patch.crates-io.loom.path='$WORK/loom'"
    patched_binary="$binary"
    grep -q "\"package_id\":\"path+file://$WORK/loom#" "$WORK/target/messages.json" \
        || die "cargo did not take the patched loom"
    step "models on patched loom, $LOOM_MAX_PREEMPTIONS preemptions" models "patched loom" "$patched_binary"
fi
if [ "$stock_mutants" -eq 1 ]; then
    all_mutants "stock loom" "$stock_binary" || say "stock loom misses some; that decides nothing"
fi
if [ "$mutants" -eq 1 ]; then
    all_mutants "patched loom" "$patched_binary" || die "not every mutant was killed"
fi
