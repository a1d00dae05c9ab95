#!/usr/bin/env bash
# Proves what CI proves: runs the same three scripts.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

ci/check.sh
ci/test.sh
ci/numa.sh
