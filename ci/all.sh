#!/usr/bin/env bash
# Proves what CI proves: runs the same two scripts.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

ci/check.sh
ci/test.sh
