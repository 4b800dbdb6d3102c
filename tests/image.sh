# shellcheck shell=bash
# image.sh: sourced by what makes machines to emulate (xenlab/build, kernel61/run) from Debian packages: their root, kernel, initrd. All of it
# works in the current folder; what is slow is kept in ./cache and made again only when what it is made from has changed.
tests=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

# step NAME COMMAND..: its output is shown only if it fails.
step() {
    local name=$1 start=$SECONDS
    shift
    "$@" >cache/log 2>&1 || { tail -n 30 cache/log >&2; die "$name failed"; }
    echo "$name: $((SECONDS - start)) s"
}

# Is what FILE stands for made from WANT?
is_fresh() { [[ -e $1 && $(cat "$1") == "$2" ]]; }

# The package of Debian's newest kernel.
kernel_package() { apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1; }

# fetch_debs PACKAGE..: to cache/debs. What was made from those that were there before goes.
fetch_debs() {
    ! is_fresh cache/debs/.made "$*" || return 0
    rm -rf cache/debs cache/kernel cache/root.made
    mkdir -p cache/debs
    (cd cache/debs && apt-get -qq -o APT::Sandbox::User=root download "$@") || return 1
    echo "$*" >cache/debs/.made
}

# bootstrap ROOT PACKAGE..: Debian 12 with these. No service starts in a chroot.
bootstrap() {
    local root=$1
    shift
    rm -rf "$root"
    debootstrap --variant=minbase --include="$(IFS=,; echo "$*")" bookworm "$root"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
}

# Leaves out what a machine that lives for an hour needs not.
slim() { rm -rf "$1"/usr/share/{doc,man,locale} "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/debootstrap; } # ROOT

# Debian's kernel from cache/debs to cache/kernel, its image to ./vmlinuz.
unpack_kernel_package() {
    rm -rf cache/kernel
    mkdir cache/kernel
    dpkg-deb -x cache/debs/linux-image-*.deb cache/kernel
    depmod -b cache/kernel "$(ls cache/kernel/lib/modules)"
    cp cache/kernel/boot/vmlinuz-* vmlinuz
}

# Files of modules and of what they need, in the order to load them.
module_files() {
    local name
    for name; do
        modprobe -d cache/kernel -S "$(ls cache/kernel/lib/modules)" --show-depends "$name" || return 1
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# add_modules ROOT MODULE..: to its /usr/lib/modules.
add_modules() {
    local root=$1 version file
    shift
    version=$(ls cache/kernel/lib/modules)
    module_files "$@" >cache/modules
    while read -r file; do install -D -m 644 "$file" "$root/usr/lib/modules/${file#*lib/modules/}"; done <cache/modules
    cp cache/kernel/lib/modules/"$version"/modules.{builtin,order} "$root/usr/lib/modules/$version/"
    depmod -b "$root" "$version"
}

make_initrd() { # OUTPUT INIT MODULE..
    local output=$1 init=$2 tree=cache/initrd n=10 file
    shift 2
    rm -rf "$tree/modules" "$tree/init"
    mkdir -p "$tree"/{bin,dev,proc,sys,mnt,modules}
    cp /bin/busybox "$tree/bin/"
    install -m 755 "$init" "$tree/init"
    module_files "$@" >cache/modules
    while read -r file; do cp "$file" "$tree/modules/$((n++))-${file##*/}"; done <cache/modules
    (cd "$tree" && find . | cpio -o -H newc -R 0:0 --quiet) | gzip -6 >"$output"
}

# The initrd that mounts the disk (image-initrd).
make_boot_initrd() { # OUTPUT
    rm -rf cache/initrd
    make_initrd "$1" "$tests/image-initrd" virtio_pci virtio_blk crc32c_generic ext4
}

make_ext4() { # ROOT OUTPUT SIZE
    rm -f "$2"
    mke2fs -q -t ext4 -O ^metadata_csum -E lazy_itable_init=1 -m 0 -d "$1" "$2" "$3"
}
