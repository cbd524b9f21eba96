#!/bin/sh
# What the guest does: every test here, one after the other. The last line is the verdict; a guest
# that dies before it has none.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
cd "$(dirname "$0")/../.."
failed=0

# usage: counter <name>: of the kernel's TLS connections
counter() {
    awk -v name="$1" '$1 == name { print $2 }' /proc/net/tls_stat
}

parameter() {
    sed -n "s/.*sluice\.$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

announce() {
    echo "# $1, after $(cut -d. -f1 /proc/uptime) s"
}

# usage: run <what> <command …>: one of the parts; it must have moved connections to the kernel
run() {
    what=$1
    shift
    announce "$what"
    tx=$(counter TlsTxSw) rx=$(counter TlsRxSw)
    "$@" || failed=1
    tx=$(($(counter TlsTxSw) - tx)) rx=$(($(counter TlsRxSw) - rx))
    if [ "$tx" -gt 0 ] && [ "$rx" -gt 0 ]; then
        echo "ok $what: the kernel sealed for $tx connections and opened for $rx"
    else
        echo "not ok $what: the kernel sealed for $tx connections and opened for $rx"
        failed=1
    fi
}

echo "guest: $(uname -sr), up after $(cut -d' ' -f1 /proc/uptime) s"
ip link set lo up
modprobe -a tls gf128mul
insmod "$(parameter adapter)"
export TEST_RECORDS=kernel
for program in build/qemu/native/guest_* build/qemu/native/test_*; do
    case $program in *_*"$(parameter only)"*) ;; *) continue ;; esac
    [ -x "$program" ] || continue
    case $program in
    *_cost) # where the clock counts instructions
        [ "$(parameter only)" = cost ] || continue
        announce guest_cost
        modprobe aesni_intel # as on any machine whose processor has it
        "$program" || failed=1
        ;;
    *_nic) # looks at its own namespaces
        announce guest_nic
        "$program" $(parameter case) || failed=1
        ;;
    *) run "${program##*/}" "$program" $(parameter case) ;;
    esac
done
if [ "$(parameter only)" = two_sites ]; then
    announce two_sites
    mount -t tmpfs tmpfs /etc/ssl/certs # else aiohttp reads them all, and nobody needs them
    "$(parameter python)" -m tests.qemu.two_sites || failed=1
fi
echo "guest: done after $(cut -d' ' -f1 /proc/uptime) s"
echo "sluice-guest: verdict $failed"
poweroff -f
