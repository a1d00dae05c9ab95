#!/usr/bin/env bash
# Makes the figures of docs/failure anew: simulations write their tables (CSV), the example `plot` draws each as SVG.
# The same code makes the same files.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

export SLUICEGATE_PLOT_DIR="$ROOT/docs/failure"
mkdir -p "$SLUICEGATE_PLOT_DIR"
step "tables" cargo test --all-features --locked --lib flush::permit::adapt
step "more tables" cargo test --all-features --locked --test outage
step "figures" cargo run --locked --example plot -- docs/failure docs/failure
