#!/usr/bin/env bash
# Runs every test of ringtun: unit, property, structure, end to end, allocation, instruction counts.
#
#   bash tests/run.sh          what CI runs; a few minutes
#   bash tests/run.sh --full   the same with longer transfers, 20,000 cases a property, and other
#                              WireGuards at the other end (tests/README.md); half an hour or more
#
# Needs Rust, a C linker and Linux. Programs that some tests use are installed where apt and root
# (or sudo) are there; otherwise it says what is left out. The network of the machine is never
# touched: everything happens in namespaces of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }

full=
for argument in "$@"; do
    case "$argument" in
        --full) full=1 ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "unknown option $argument; see --help" >&2; exit 2 ;;
    esac
done

# How to become root here: nothing, `sudo -n`, or not at all.
as_root=(false)
if [ "$(id -u)" = 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
fi

have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

# program, its package, and what is missing without it
tools=(
    'ping:iputils-ping:the ping tests are left out'
    'iperf3:iperf3:the demo measures with its built-in sender'
    'ip:iproute2:the tests of roaming and of routes fail'
    'wg:wireguard-tools:the tests by wg are left out'
    'nft:nftables:the test behind a NAT is left out'
    'wireguard-go:wireguard-go:the tests with another WireGuard are left out'
    'nft:nftables:the test of the firewall is left out'
    'iptables:iptables:the test of the firewall without nft is left out'
    'jq:jq:the tests of the scripts in tuning/ beside a tunnel are left out'
    'setpriv:util-linux:the tests without permissions are left out'
    'unshare:util-linux:the tests without /dev/net/tun are left out'
    'valgrind:valgrind:the instructions of the hot functions are not counted'
)
if [ -n "$full" ]; then
    tools+=(
        'qemu-system-x86_64:qemu-system-x86:the tests with the WireGuard of the kernel are left out'
        'busybox:busybox-static:the tests with the WireGuard of the kernel are left out'
        'cpio:cpio:the tests with the WireGuard of the kernel are left out'
        'chromium:chromium:the tests of the report in a browser are left out'
    )
fi
packages=()
for tool in "${tools[@]}"; do
    IFS=: read -r program package _ <<<"$tool"
    have "$program" || packages+=("$package")
done
if [ "${#packages[@]}" -gt 0 ] && [ "${as_root[*]}" != false ] && have apt-get; then
    say "installing ${packages[*]}"
    install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y)
    "${install[@]}" update || true
    "${install[@]}" install --no-install-recommends "${packages[@]}" >/dev/null || true
fi
# A library, for this architecture only, and not of every release: by itself, so that nothing else
# is missed for want of it.
have_ipsec_mb() { PATH="$PATH:/usr/sbin:/sbin" ldconfig -p | grep 'libIPSec_MB\.so\.1 ' >/dev/null; }
if [ "$(uname -m)" = x86_64 ] && ! have_ipsec_mb; then
    if [ "${as_root[*]}" != false ] && have apt-get; then
        say 'installing libipsec-mb1'
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install \
            --no-install-recommends libipsec-mb1 >/dev/null || true
    fi
    have_ipsec_mb || say 'there is no libIPSec_MB.so.1 (libipsec-mb1): the tests with it are left out'
fi
for tool in "${tools[@]}"; do
    IFS=: read -r program package without <<<"$tool"
    have "$program" || say "there is no $program ($package): $without"
done

if [ ! -e /dev/net/tun ] && [ "${as_root[*]}" != false ]; then
    "${as_root[@]}" modprobe tun || true
fi
[ -e /dev/net/tun ] || say 'there is no /dev/net/tun (modprobe tun): NO END-TO-END TEST CAN RUN'

# Where ordinary users may not make namespaces (Ubuntu 24.04), the tests run as root does.
if [ "$(id -u)" != 0 ] && have unshare && have ip &&
    ! PATH="$PATH:/usr/sbin:/sbin" unshare -Urn ip link set lo up 2>/dev/null; then
    if [ "${as_root[*]}" != false ]; then
        say 'user namespaces are refused here: the tests run by sudo'
        host=$(rustc -vV | sed -n 's/^host: //p')
        runner="CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER"
        export "$runner=sudo -n -E"
    else
        say 'user namespaces are refused here: NO END-TO-END TEST CAN RUN without sudo'
    fi
fi

if [ -n "$full" ]; then
    export PROPTEST_CASES=20000 RINGTUN_FULL=1
    say 'making the guest with the kernel of Debian'
    bash tests/guest/build.sh || say 'no guest: the tests with the WireGuard of the kernel are left out'
    # package, program, folder
    for other in 'boringtun-cli boringtun-cli boringtun' 'gotatun-cli gotatun gotatun'; do
        read -r package program folder <<<"$other"
        [ ! -x "target/full/$folder/bin/$program" ] || continue
        say "building $program, once"
        cargo install --quiet --locked "$package" --root "target/full/$folder" \
            --target-dir target/full/build ||
            say "no $program: the tests with it are left out"
    done
fi

say 'building'
# The end-to-end tests start this binary; cargo builds it for them no more than for anybody.
cargo build --locked -p ringtun
cargo test --locked --workspace --no-run

say 'testing'
cargo test --locked --workspace --no-fail-fast
if have valgrind; then
    say 'counting the instructions of the hot functions'
    # As who builds it, also where the other tests run by sudo.
    env -u "${runner:-_}" cargo test --locked --profile count -p ringtun-tests --test instructions
fi
if [ -z "$full" ] && [ "$(id -u)" = 0 ]; then
    say 'queues once more with the privileges of root: programs in the kernel'
    RINGTUN_TEST_ISOLATION=root cargo test --locked -p ringtun-tests --test e2e -- standing
fi
if [ -n "$full" ] && [ "$(id -u)" = 0 ]; then
    say 'once more with the privileges of root: forced socket buffers'
    RINGTUN_TEST_ISOLATION=root cargo test --locked -p ringtun-tests --test e2e
fi
say 'everything passed; what was left out is marked "ignored" above'
