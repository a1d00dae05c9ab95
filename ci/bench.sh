#!/usr/bin/env bash
# Measures; proves nothing. Arguments go to `cargo bench`, e.g. `ci/bench.sh --bench ring`.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

cargo bench --workspace --locked "$@"
