#!/usr/bin/env bash
# Makes sure that the tools are there. Proves nothing by itself.
#
# The other scripts source it: it goes to the root of the repository and defines `say`, `die`, `step`, `need`,
# `crate_tool`, $ROOT and $TARGET. Run alone (`ci/setup.sh`), it prepares a machine for all of them.
#
# As root on Debian (and what derives from it) a missing package is installed; anywhere else its absence is said.
# Rust toolchains are never installed or changed. Nothing happens when nothing is missing.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
TARGET="${CARGO_TARGET_DIR:-$ROOT/target}"
case "$TARGET" in /*) ;; *) TARGET="$ROOT/$TARGET" ;; esac
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"
export RUSTUP_AUTO_INSTALL=0 # a toolchain that is not there stays away

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# step TITLE COMMAND…: runs the command, and says how long it took.
step() {
    local title="$1" begin=$SECONDS
    shift
    printf '\n== %s\n' "$title"
    "$@"
    printf '== %s: ok, %s s\n' "$title" $((SECONDS - begin))
}

# need COMMAND PACKAGE…: the command must be on the PATH; the Debian packages bring it.
need() {
    local command="$1"
    shift
    needs "'$command'" "command -v $command" "$@"
}

# need_library NAME VERSION PACKAGE…: pkg-config must know the library, of that version or newer, and what it needs
# itself; the Debian packages bring them.
need_library() {
    local name="$1" version="$2"
    shift 2
    needs "the library '$name' $version" "pkg-config --static --libs '$name >= $version'" "$@"
}

# needs WHAT TEST PACKAGE…: the test is a command that succeeds when it is there.
needs() {
    local what="$1" test="$2"
    shift 2
    eval "$test" >/dev/null 2>&1 && return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        die "$what is missing; on Debian: apt-get install $*"
    fi
    say "installing $* (for $what)"
    if [ -z "${SLUICEGATE_APT_UPDATED:-}" ]; then
        apt-get update -qq
        export SLUICEGATE_APT_UPDATED=1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    eval "$test" >/dev/null 2>&1 || die "$what is still missing after installing $*"
}

# crate_tool COMMAND CRATE VERSION: builds a tool of cargo's once, into the target directory, and puts it on the PATH.
crate_tool() {
    local command="$1" crate="$2" version="$3"
    local home="$TARGET/tools/$crate-$version"
    if [ ! -x "$home/bin/$command" ]; then
        say "building $crate $version into ${home#"$ROOT"/} (once)"
        # Unoptimised: it builds in less than half the time, and what the tools do here takes seconds.
        CARGO_TARGET_DIR="$TARGET/tools/build" CARGO_PROFILE_DEV_DEBUG=0 \
            cargo install "$crate" --version "=$version" --locked --quiet --debug --root "$home"
        rm -rf "$TARGET/tools/build"
    fi
    PATH="$home/bin:$PATH"
}

# nightly: whether a nightly toolchain is installed.
nightly() { command -v rustup >/dev/null 2>&1 && cargo +nightly --version >/dev/null 2>&1; }

command -v cargo >/dev/null 2>&1 \
    || die "cargo is missing: install Rust (see rust-version in Cargo.toml), then try again"
need cc gcc libc6-dev
need make make
need patch patch
# For the feature `numa`, which the command and `--all-features` have.
need pkg-config pkg-config
need_library hwloc 2.8.0 libhwloc-dev libudev-dev

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    say "ready: $(cargo --version), $(cc --version | head -n 1)"
fi
