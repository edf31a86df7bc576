#!/usr/bin/env bash
# Makes the guest of the full suite: Debian's own kernel and a small root file system, under
# target/guest/. Nothing is installed; no kernel file is kept in the repository.
#
#   bash tests/guest/build.sh                  fetch and unpack: target/guest/{vmlinuz,base.cpio.gz}
#   bash tests/guest/build.sh pack OUT FILE..  base.cpio.gz with programs added, as OUT
#
# Needs: apt-get (Debian), dpkg-deb, cpio, busybox-static; wg, ip and ping are taken from here.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=target/guest
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
export PATH="$PATH:/usr/sbin:/sbin"

die() { echo "tests/guest/build.sh: $*" >&2; exit 1; }

# Copies programs into a root file system, with the shared libraries they name.
add_programs() {
    local root=$1 program library
    shift
    for program in "$@"; do
        install -D -m 755 "$program" "$root/bin/$(basename "$program")"
        for library in $(ldd "$program" 2>/dev/null | grep -o '/[^ ]*'); do
            [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library"
        done
    done
}

archive() { (cd "$1" && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0 | gzip -1); }

# The modules named, what they depend on, and the lists that modprobe reads.
add_modules() {
    local from=$1 root=$2 version=$3 module file
    shift 3
    busybox depmod -b "$from" "$version"
    for module in "$@"; do
        for file in $(grep "/$module\.ko:" "$from/lib/modules/$version/modules.dep" | tr -d :); do
            install -D -m 644 "$from/lib/modules/$version/$file" \
                "$root/lib/modules/$version/$file"
        done
    done
    busybox depmod -b "$root" "$version"
}

pack() {
    local to=$1
    shift
    [ -s "$out/base.cpio.gz" ] || die "there is no $out/base.cpio.gz: run it without arguments"
    work=$(mktemp -d "$out/pack.XXXXXX")
    add_programs "$work" "$@"
    # A debug build is mostly symbols, and the guest holds all of it in memory.
    strip --strip-debug "$work"/bin/* 2>/dev/null || true
    { cat "$out/base.cpio.gz"; archive "$work"; } >"$to.part"
    mv "$to.part" "$to"
}

base() {
    local package root version program
    for program in apt-get apt-cache dpkg-deb cpio busybox; do
        command -v "$program" >/dev/null || die "there is no $program"
    done
    package=$(apt-cache depends linux-image-amd64 2>/dev/null |
        sed -n 's/^ *Depends: *\(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || die 'apt knows no linux-image-amd64: the guest runs the kernel of Debian'
    if [ "$(cat "$out/package" 2>/dev/null)" = "$package" ] && [ -s "$out/base.cpio.gz" ] &&
        [ "$out/base.cpio.gz" -nt tests/guest/build.sh ] &&
        [ "$out/base.cpio.gz" -nt tests/guest/init ]; then
        echo "the guest is there: $package"
        return
    fi
    mkdir -p "$out"
    work=$(mktemp -d "$out/base.XXXXXX")
    echo "fetching $package for the guest (70 MB, once)"
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package")
    dpkg-deb -x "$work"/*.deb "$work/kernel"
    version=${package#linux-image-}
    root="$work/root"
    mkdir -p "$root"/{dev,etc,proc,root,run,sys,tmp,var}
    ln -s ../run "$root/var/run"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    add_programs "$root" "$(command -v busybox)"
    for program in wg ip ping; do
        program=$(command -v "$program") && add_programs "$root" "$program"
    done
    add_modules "$work/kernel" "$root" "$version" wireguard tun veth virtio_pci virtio_net
    install -m 755 tests/guest/init "$root/init"
    archive "$root" >"$out/base.cpio.gz"
    install -m 644 "$work/kernel/boot/vmlinuz-$version" "$out/vmlinuz"
    echo "$package" >"$out/package"
    echo "the guest is made: $package"
}

case "${1:-}" in
    '') base ;;
    pack) shift; pack "$@" ;;
    *) die 'give nothing, or pack OUT FILE..' ;;
esac
