#!/usr/bin/env bash
# Proves what needs several NUMA nodes, on a machine that has one: boots a real Linux kernel with nodes as asked for,
# under emulation, and runs numa-tests/ in it. Then plants each bug of numa-tests/mutants.txt, which must fail the
# checks that it names. Says nothing about speed.
#
# A boot passes if the emulator ends with exit code 1 (what the guest wrote to isa-debug-exit) and a verdict is in the
# log of the console. Code 3 is a failed check. Anything else (the kernel panicked, the guest switched itself off, time
# ran out) is no verdict, and fails here whatever was expected. Only a kernel that never came to the guest's first
# process (`guest: up` in the log), where nothing of ours has run, is booted anew: twice at most, and it is said.
#
# The kernel and busybox are Debian's, downloaded once (28 MB) and taken apart, not installed; qemu is installed if it
# is missing. Without a Debian to get them from, or on another processor, the script says so and succeeds; with CI
# set it fails, because there the proof is owed.
#
# usage: ci/numa.sh [--no-mutants] [MACHINE…]   (without names: all machines; with names: those, and no mutants)
# environment: NUMA_MUTANT (plants that bug in the machines, which should then fail), NUMA_TIMEOUT seconds for one boot
# (180), of which NUMA_UP until the first process runs (60). To get a newer kernel: remove $TARGET/numa/vmlinuz.
set -euo pipefail
. "$(dirname "$0")/setup.sh"

# machine NAME: sets $nodes, the CPUs of each node ('none': memory only), and $distances, a row for each node.
MACHINES=(2x2 4x2 2+mem)
machine() {
    case "$1" in
        2x2) # two sockets
            nodes="0-1/2-3" distances="10,21/21,10" ;;
        4x2) # two sockets of two clusters
            nodes="0-1/2-3/4-5/6-7" distances="10,12,32,32/12,10,32,32/32,32,10,12/32,32,12,10" ;;
        2+mem) # two sockets, and memory without CPUs, nearer to the first
            nodes="0-1/2-3/none" distances="10,21,17/21,10,28/17,28,10" ;;
        *) die "no machine '$1'; there are: ${MACHINES[*]}" ;;
    esac
}

mutants=1 machines=()
for argument in "$@"; do
    case "$argument" in
        --no-mutants) mutants=0 ;;
        -*) die "unknown option $argument (see the head of this script)" ;;
        *) machine "$argument"; machines+=("$argument") mutants=0 ;;
    esac
done
[ "${#machines[@]}" -gt 0 ] || machines=("${MACHINES[@]}")
[ -z "${NUMA_MUTANT:-}" ] || mutants=0

WORK="$TARGET/numa"
TABLE="$ROOT/numa-tests/mutants.txt"
NUMA_TIMEOUT="${NUMA_TIMEOUT:-180}"
NUMA_UP="${NUMA_UP:-60}"
BOOTS=3
NODE_MIB=128

not_run() {
    [ -z "${CI:-}" ] || die "the NUMA checks were not run: $*. CI is set, so this is a failure."
    say "The NUMA checks were NOT run: $*."
    exit 0
}

# part PACKAGE FILE TO: takes one file, which may be named by a pattern, out of a Debian package without installing it.
part() {
    local place="$WORK/package" rc=0
    rm -rf "$place"
    mkdir "$place"
    # shellcheck disable=SC2086
    (cd "$place" && apt-get -qq -o APT::Sandbox::User=root download "$1" && dpkg -x ./*.deb x && mv x/$2 "$3") || rc=$?
    rm -rf "$place"
    return "$rc"
}

kernel_package() { # what Debian's package of the current cloud kernel depends on
    apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

parts() { # the kernel and busybox, as of the package lists that are there
    local kernel
    if [ ! -f "$WORK/vmlinuz" ]; then
        kernel="$(kernel_package)"
        [ -n "$kernel" ] || return 1
        part "$kernel" 'boot/vmlinuz-*' "$WORK/vmlinuz" || return 1
        say "kernel: $kernel"
    fi
    [ -f "$WORK/busybox" ] || part busybox-static bin/busybox "$WORK/busybox"
}

downloads() { # lists that are missing or too old to find anything by are got anew
    mkdir -p "$WORK"
    parts || {
        [ "$(id -u)" -eq 0 ] || die "no kernel or busybox to be had: try again after 'apt-get update' as root"
        apt-get update -qq
        parts || die "no kernel or busybox to be had from Debian's packages"
    }
}

build() { # sets $binary
    local messages="$WORK/messages.json"
    RUSTFLAGS="--cfg sluicegate_planted" CARGO_TARGET_DIR="$WORK/build" \
        cargo build --manifest-path numa-tests/Cargo.toml --release --locked \
        --message-format=json-render-diagnostics >"$messages"
    binary="$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$messages" | tail -n 1)"
    [ -x "$binary" ] || die "cargo built no binary 'numa-tests'"
}

first_files() { # the guest's first file system: busybox, the checks, and the libraries that they name
    local root="$WORK/root" library
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,proc,sys}
    cp "$WORK/busybox" "$root/bin/busybox"
    cp numa-tests/init "$root/init"
    cp "$binary" "$root/numa-tests"
    while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done < <(ldd "$binary" | grep -oE '/[^ )]+')
    chmod +x "$root/init" "$root/bin/busybox"
    (cd "$root" && find . | "$WORK/busybox" cpio -o -H newc 2>/dev/null) >"$WORK/initramfs"
}

# emulator: sets $arguments for the machine in $nodes and $distances. A socket for each node with CPUs.
emulator() {
    local list rows row cpus from to sockets=0 count=0
    IFS=/ read -ra list <<<"$nodes"
    IFS=/ read -ra rows <<<"$distances"
    arguments=()
    for from in "${!list[@]}"; do
        cpus="${list[from]}"
        arguments+=(-object "memory-backend-ram,id=memory$from,size=${NODE_MIB}M")
        if [ "$cpus" = none ]; then
            arguments+=(-numa "node,nodeid=$from,memdev=memory$from")
        else
            arguments+=(-numa "node,nodeid=$from,memdev=memory$from,cpus=$cpus")
            sockets=$((sockets + 1)) count=$((${cpus#*-} + 1))
        fi
    done
    for from in "${!rows[@]}"; do
        IFS=, read -ra row <<<"${rows[from]}"
        for to in "${!row[@]}"; do
            arguments+=(-numa "dist,src=$from,dst=$to,val=${row[to]}")
        done
    done
    arguments+=(-smp "cpus=$count,sockets=$sockets,cores=$((count / sockets))" -m "$((NODE_MIB * ${#list[@]}))M")
}

# command_line MACHINE MUTANT CHECKS: sets $line, what the kernel and the checks are told.
command_line() {
    line="console=ttyS0 panic=-1 rdinit=/init nokaslr mitigations=off cryptomgr.notests"
    # The kernel must not move pages after the threads that use them: that would hide what a placement does.
    line+=" numa_balancing=disable"
    # When the kernel stops its ticks it rewrites code that other CPUs run. Emulated in parallel, such a CPU may go round
    # in the breakpoint put there for the meantime, for ever (seen in one of 120 boots, three at a time on two CPUs).
    line+=" nohz=off highres=off"
    line+=" sluicegate.machine=$1 sluicegate.nodes=$nodes sluicegate.distances=$distances sluicegate.mib=$NODE_MIB"
    [ -z "$2" ] || line+=" sluicegate.mutant=$2"
    [ -z "$3" ] || line+=" sluicegate.checks=$3"
}

is_up() { grep -q '^guest: up' "$1"; }

# emulate LOG: one boot with $arguments and $line; sets $rc. A guest that is not up in time is ended.
emulate() {
    local log="$1" begin=$SECONDS guest
    : >"$log.raw"
    timeout --kill-after=5 "$NUMA_TIMEOUT" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max \
        "${arguments[@]}" -nodefaults -display none -no-reboot -serial stdio -device isa-debug-exit,iobase=0x501,iosize=1 \
        -kernel "$WORK/vmlinuz" -initrd "$WORK/initramfs" -append "$line" </dev/null >"$log.raw" 2>&1 &
    guest=$! rc=0
    # shellcheck disable=SC2064
    trap "kill $guest 2>/dev/null || true" EXIT
    until is_up "$log.raw" || ! kill -0 "$guest" 2>/dev/null; do
        [ $((SECONDS - begin)) -lt "$NUMA_UP" ] || { kill "$guest"; break; }
        sleep 0.2
    done
    wait "$guest" || rc=$?
    trap - EXIT
    tr -d '\r' <"$log.raw" >"$log"
    rm "$log.raw"
}

# boot MACHINE MUTANT CHECKS LOG: sets $verdict to 'pass', 'FAIL' or 'none', and $how. An empty MUTANT plants nothing;
# CHECKS is a list with commas, and without one all are run.
boot() {
    local name="$1" log="$4" rc line try
    machine "$name"
    emulator
    command_line "$1" "$2" "$3"
    for try in $(seq "$BOOTS"); do
        emulate "$log"
        if is_up "$log" || grep -q '^verdict:' "$log" || [ "$rc" -eq 3 ]; then break; fi
        cp "$log" "$log.not-up-$try"
        say "$name: the kernel did not come up (boot $try of $BOOTS, exit code $rc): ${log#"$ROOT"/}.not-up-$try"
    done
    verdict=none how="$(sed -n 's/^verdict: //p' "$log" | tail -n 1)"
    case "$rc,$how" in
        "1,pass, "*" on $name") verdict=pass ;;
        "3,FAIL, "*" on $name: "*) verdict=FAIL ;;
        124,* | 137,*) how="no end within $NUMA_TIMEOUT s" ;;
        *) how="exit code $rc, verdict '${how:-none}'" ;;
    esac
}

run_machine() { # NAME
    local log="$WORK/$1.log"
    boot "$1" "${NUMA_MUTANT:-}" "" "$log"
    if [ "$verdict" = pass ]; then
        grep -E '^(ok|verdict:) ' "$log"
        return
    fi
    printf '\nthe end of %s:\n' "${log#"$ROOT"/}"
    tail -n 40 "$log"
    die "$1: $how"
}

# run_mutant NAME MACHINE CHECK…: whether each of these checks failed; sets $how. No other is run.
run_mutant() {
    local mutant="$1" name="$2" log="$WORK/mutant-$1.log" check checks
    shift 2
    checks="$*"
    boot "$name" "$mutant" "${checks// /,}" "$log"
    [ "$verdict" = FAIL ] || return 1
    for check in "$@"; do
        grep -qF -- "FAIL $check: " "$log" || { how="$check did not fail; $how"; return 1; }
    done
}

all_mutants() { # the table; each has to be killed
    local mutant name checks killed=0 total=0 begin word
    printf '%-16s %-8s %-9s %7s  %s\n' mutant machine verdict seconds how
    while read -r mutant name checks; do
        [ -n "$checks" ] || die "mutants.txt: '$mutant' names no check"
        total=$((total + 1)) begin=$SECONDS word=killed
        # shellcheck disable=SC2086
        if run_mutant "$mutant" "$name" $checks; then
            killed=$((killed + 1))
        elif [ "$verdict" = none ]; then
            word="none"
        else
            word=SURVIVED
        fi
        printf '%-16s %-8s %-9s %7s  %s\n' "$mutant" "$name" "$word" $((SECONDS - begin)) "$how"
    done < <(sed 's/#.*//; /^ *$/d' "$TABLE")
    say "$killed of $total mutants killed"
    [ "$total" -gt 0 ] || die "mutants.txt is empty"
    [ "$killed" -eq "$total" ] || die "not every mutant was killed"
}

[ "$(uname -sm)" = "Linux x86_64" ] || not_run "this script knows them on Linux on x86-64 only"
command -v apt-get >/dev/null 2>&1 || not_run "the kernel comes from Debian's packages"
need timeout coreutils
need qemu-system-x86_64 qemu-system-x86
step "kernel and busybox" downloads
step "build" build
first_files
for name in "${machines[@]}"; do
    step "machine $name${NUMA_MUTANT:+, with $NUMA_MUTANT planted}" run_machine "$name"
done
if [ "$mutants" -eq 1 ]; then
    step "mutants" all_mutants
fi
