#!/usr/bin/env bash
# Makes the exports beside it anew: writes for each machine what its Linux would say in /sys and /proc into a folder, and
# lets hwloc's own lstopo look at that. So they are what hwloc makes of such machines, without owning one.
#
# Needs lstopo (Debian: hwloc-nox) or LSTOPO=/path/to/lstopo. Usage: tests/machines/export.sh
set -euo pipefail
cd "$(dirname "$0")"

lstopo="${LSTOPO:-lstopo-no-graphics}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# put FILE TEXT: writes a line into the machine's file system.
put() {
    mkdir -p "$root/$(dirname "$1")"
    printf '%s\n' "$2" >"$root/$1"
}

# mask CPU…: a set of CPUs as sysfs writes it; up to 32 of them.
mask() {
    local bits=0 cpu
    for cpu in "$@"; do bits=$((bits | 1 << cpu)); done
    printf '%08x' "$bits"
}

# alike COLUMN VALUE: the online CPUs of the table that have this value in a column.
alike() { awk -v column="$1" -v value="$2" '$column == value && $6 == "on" { print $1 }' "$root/table"; }

# begin NAME: an empty machine. Then `cpu` for each CPU, `node` for each node, `export_it`.
begin() {
    name="$1" root="$work/$1"
    mkdir -p "$root"
    : >"$root/table"
    put proc/cpuinfo ""
}

# cpu NUMBER NODE PACKAGE CORE L3 [on|off] [MAX_KHZ]: core and L3 have one number in the machine.
cpu() { echo "$1 $2 $3 $4 $5 ${6:-on} ${7:-0}" >>"$root/table"; }

# node NUMBER KIB DISTANCE…
node() {
    local number="$1" kib="$2" dir="sys/devices/system/node/node$1"
    shift 2
    # shellcheck disable=SC2046
    put "$dir/cpumap" "$(mask $(alike 2 "$number"))"
    put "$dir/meminfo" "Node $number MemTotal: $kib kB"
    put "$dir/distance" "$*"
    nodes="${nodes:+$nodes,}$number"
}

cpus_into_sysfs() {
    local number package core l3 on khz dir cache
    while read -r number _ package core l3 on khz; do
        dir="sys/devices/system/cpu/cpu$number"
        put "$dir/online" "$([ "$on" = on ] && echo 1 || echo 0)"
        [ "$on" = on ] || continue
        put "$dir/topology/core_id" "$core"
        put "$dir/topology/physical_package_id" "$package"
        # shellcheck disable=SC2046
        put "$dir/topology/thread_siblings" "$(mask $(alike 4 "$core"))"
        # shellcheck disable=SC2046
        put "$dir/topology/core_siblings" "$(mask $(alike 3 "$package"))"
        cache="$dir/cache/index3"
        put "$cache/level" 3
        put "$cache/type" Unified
        put "$cache/size" 16384K
        # shellcheck disable=SC2046
        put "$cache/shared_cpu_map" "$(mask $(alike 5 "$l3"))"
        [ "$khz" = 0 ] || put "$dir/cpufreq/cpuinfo_max_freq" "$khz"
    done <"$root/table"
    put sys/devices/system/cpu/possible "0-$(awk 'END { print NR - 1 }' "$root/table")"
    put sys/devices/system/cpu/present "0-$(awk 'END { print NR - 1 }' "$root/table")"
    put sys/devices/system/cpu/online "$(alike 6 on | paste -sd,)"
    put sys/devices/system/node/online "$nodes"
    put sys/devices/system/node/possible "$nodes"
}

# confine CPUS NODES: a cgroup (version 2) for whoever looks.
confine() {
    put proc/mounts "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"
    put proc/self/cgroup "0::/box"
    put sys/fs/cgroup/cgroup.controllers "cpuset memory"
    put sys/fs/cgroup/box/cpuset.cpus.effective "$1"
    put sys/fs/cgroup/box/cpuset.mems.effective "$2"
}

export_it() {
    cpus_into_sysfs
    "$lstopo" -f --if fsroot -i "$root" --disallowed --no-io --of xml "$name.xml"
    tidy "$name.xml"
    nodes=""
}

# What differs from run to run.
tidy() { sed -i -E '/<info name="(ProcessName|LinuxCgroup|HostName|OS[A-Za-z]*|Architecture)"/d; /<support /d' "$1"; }

# pairs PACKAGES CORES: cores with two threads, the second ones numbered after all first ones, as Linux does.
pairs() {
    local packages="$1" cores="$2" thread package core
    for thread in 0 1; do
        for ((package = 0; package < packages; package++)); do
            for ((core = package * cores; core < (package + 1) * cores; core++)); do
                cpu $((thread * packages * cores + core)) "$package" "$package" "$core" "$package"
            done
        done
    done
}

gib() { echo $(($1 << 20)); }
nodes=""

begin two-sockets
pairs 2 4
node 0 "$(gib 64)" 10 21
node 1 "$(gib 64)" 21 10
export_it

begin memory-only # a CXL expander behind the second socket
pairs 2 4
node 0 "$(gib 64)" 10 21 24
node 1 "$(gib 64)" 21 10 14
node 2 "$(gib 256)" 24 14 10
export_it

begin sub-numa # two clusters in each of two sockets
for number in {0..15}; do cpu "$number" $((number / 4)) $((number / 8)) "$number" $((number / 8)); done
node 0 "$(gib 32)" 10 12 21 21
node 1 "$(gib 32)" 12 10 21 21
node 2 "$(gib 32)" 21 21 10 12
node 3 "$(gib 32)" 21 21 12 10
export_it

begin confined # a container on some CPUs of the second node
pairs 2 4
node 0 "$(gib 64)" 10 21
node 1 "$(gib 64)" 21 10
confine 5-6,13-14 1
export_it

begin offline # a core and a thread of the first socket are off
pairs 2 4
sed -i -E 's/^((1|9|2) .*) on /\1 off /' "$root/table"
node 0 "$(gib 64)" 10 21
node 1 "$(gib 64)" 21 10
export_it

begin hybrid # two fast cores with two threads each, four slow ones
for number in {0..3}; do cpu "$number" 0 0 $((number / 2)) 0 on 5000000; done
for number in {4..7}; do cpu "$number" 0 0 $((number - 2)) 0 on 3600000; done
node 0 "$(gib 16)" 10
export_it

begin sparse # node numbers 0, 2 and 8; node 2 without memory
for number in {0..11}; do
    numbers=(0 2 8)
    cpu "$number" "${numbers[number / 4]}" $((number / 4)) "$number" $((number / 4))
done
node 0 "$(gib 32)" 10 40 20
node 2 0 40 10 20
node 8 "$(gib 32)" 20 20 10
export_it

begin eight-sockets # two boards of four
for number in {0..15}; do cpu "$number" $((number / 2)) $((number / 2)) "$number" $((number / 2)); done
for from in {0..7}; do
    row=()
    for to in {0..7}; do
        if [ "$from" = "$to" ]; then row+=(10); elif [ $((from / 4)) = $((to / 4)) ]; then row+=(21); else row+=(31); fi
    done
    node "$from" "$(gib 16)" "${row[@]}"
done
export_it

# Ordinary and high-bandwidth memory beside the same cores: hwloc's own description of such a machine.
"$lstopo" -f --if synthetic -i "pack:2 [numa(memory=68719476736)] [numa(memory=17179869184)] core:4 pu:1" \
    --of xml two-memories.xml
tidy two-memories.xml
