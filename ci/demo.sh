#!/usr/bin/env bash
# Shows what batching is worth: a million made-up audit events, or a file of your own (`ci/demo.sh FILE`, FILE=…), into
# SQLite in batches and one call per item, with the rows counted. COUNT=… and SEED=… change the events, OUT=… the folder.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

file="${1:-${FILE:-}}"
out="${OUT:-$ROOT/demo-out}"

step "build" cargo build --release --locked -p sluicegate-cli
arguments=(demo --dir "$out" --count "${COUNT:-1000000}" --seed "${SEED:-1}")
if [ -n "$file" ]; then
    # The scripts work in the root of the repository, the file is named from where the caller stands.
    case "$file" in /*) ;; *) file="${OLDPWD:-$ROOT}/$file" ;; esac
    [ -r "$file" ] || die "cannot read $file"
    arguments+=(--file "$file")
fi
exec "$TARGET/release/sluicegate" "${arguments[@]}"
