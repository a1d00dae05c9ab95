#!/usr/bin/env bash
# Proves that the book builds and that no page of its table of contents is missing. The result: target/book/index.html.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

crate_tool mdbook mdbook 0.5.4
mdbook build docs --dest-dir "$TARGET/book"
say "book: $TARGET/book/index.html"
