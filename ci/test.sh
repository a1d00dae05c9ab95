#!/usr/bin/env bash
# Proves, within the default bounds, everything that the project promises: unit, property, process and documentation
# tests; the examples, which check themselves; the protocols under loom (stock and patched) with every mutant killed;
# larger shapes under shuttle; the stress test under AddressSanitizer; and that an item takes no more instructions than
# it did.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

step "workspace tests" cargo test --workspace --all-features --locked
step "examples" ci/examples.sh
step "loom" ci/loom.sh
step "shuttle" ci/shuttle.sh
step "address sanitizer" ci/asan.sh
step "instruction counts" ci/instructions.sh
