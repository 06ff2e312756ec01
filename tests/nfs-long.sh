#!/usr/bin/env bash
# A store on real NFS: a small emulated machine with a server and two clients, each with a network, a name, processes and mounts of its own,
# does what tests/nfs/guest.sh lists, prints a table of it, and ends with 1 if something failed. Its processors are emulated, so it takes a while:
# about ten minutes for each version of NFS on two cores that had other work as well.
#   tests/nfs-long.sh [VERSION…]            versions of NFS: 4.2 and 3 if none is named; `mix` has one client of each
#   NFS_SCENARIOS="concurrent edits" tests/nfs-long.sh 4.2
# Needs no privileges, but Debian or a relative on x86-64: qemu-system-x86, xz-utils and perl-base installed, and apt-get for the packages below, about
# 120 MB, which are unpacked into a folder and not installed: that of NFS_PACKAGES, which then stays, or a temporary one.
#   TWDAG=PROGRAM       the program to test; else it is built
#   NFS_KERNEL=PACKAGE  a kernel with modules nfs, nfsd, 9p and overlay; else the one that linux-image-amd64 stands for
#   NFS_ACCEL=kvm       another way to run the machine than `tcg`
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${TWDAG:-}" ]; then
  cargo build --release --locked
  TWDAG=target/release/twdag
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packages=$(realpath -m "${NFS_PACKAGES:-$folder/packages}")
mkdir -p "$packages"
kernel=${NFS_KERNEL:-$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p')}
release=${kernel#linux-image-}
root=$packages/root-$release
if [ ! -e "$root/ready" ]; then
  (cd "$packages" && apt-get download "$kernel" busybox-static kmod libkmod2 iproute2 libbpf1 libelf1 libmnl0 libcap2 libxtables12 \
    nfs-common nfs-kernel-server rpcbind keyutils libkeyutils1 libtirpc3 libtirpc-common libevent-core-2.1-7 libwrap0 libnfsidmap1 \
    libsqlite3-0 libdevmapper1.02.1)
  mkdir -p "$root/usr"
  for package in "$packages"/*.deb; do
    case $package in */linux-image-*) [[ $package == */"$kernel"_* ]] || continue ;; esac
    dpkg -x "$package" "$root"
  done
  # The machine's root has these as links, which would disappear behind folders.
  for name in bin sbin lib; do
    if [ -d "$root/$name" ] && [ ! -L "$root/$name" ]; then
      mkdir -p "$root/usr/$name" && cp -a "$root/$name/." "$root/usr/$name/" && rm -rf "${root:?}/$name" && ln -s "usr/$name" "$root/$name"
    fi
  done
  (LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu exec -a depmod "$root/bin/kmod" -b "$root" "$release")
  touch "$root/ready"
fi

# The first file system: enough to mount this machine's root, read-only, below the packages.
first=$folder/first
mkdir -p "$first"/{bin,modules,proc,sys,dev,packages,host,upper,root}
cp "$root/bin/busybox" "$first/bin/"
modules=$root/lib/modules/$release
for name in virtio_pci 9pnet_virtio 9p overlay; do
  # A module's line names it, and then what it needs, the first to be loaded at the end. What is part of the kernel has no line.
  line=$(grep -E "(^|/)$name\.ko(\.xz)?:" "$modules/modules.dep" || true)
  for file in $(printf '%s\n' ${line#*:} | tac) ${line%%:*}; do
    base=$(basename "${file%.xz}")
    if [ ! -e "$first/modules/$base" ]; then
      case $file in *.xz) xz -dc "$modules/$file" ;; *) cat "$modules/$file" ;; esac > "$first/modules/$base"
      echo "$base" >> "$first/modules/order"
    fi
  done
done
cat > "$first/init" <<'INIT'
#!/bin/busybox sh
busybox=/bin/busybox
$busybox mount -t proc proc /proc; $busybox mount -t sysfs sys /sys; $busybox mount -t devtmpfs dev /dev
while read -r module; do $busybox insmod "/modules/$module"; done < /modules/order
for name in packages host; do
  $busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro $name /$name
done
$busybox mount -t tmpfs -o size=60% tmpfs /upper; $busybox mkdir /upper/files /upper/work
$busybox mount -t overlay -o lowerdir=/packages:/host,upperdir=/upper/files,workdir=/upper/work overlay /root
for name in proc sys dev host; do $busybox mkdir -p /root/$name; $busybox mount --move /$name /root/$name; done
for name in tmp run dev/shm dev/pts; do $busybox mkdir -p /root/$name; done
for name in tmp run dev/shm; do $busybox mount -t tmpfs tmpfs /root/$name; done
$busybox mount -t devpts devpts /root/dev/pts
$busybox cp /command /root/command
exec $busybox switch_root /root /bin/bash /command
INIT
chmod 755 "$first/init"
# What is in use stays as it is, whatever becomes of the files here meanwhile.
cp tests/nfs/guest.sh "$folder/"
cp "$TWDAG" "$folder/twdag"
strip "$folder/twdag" 2> /dev/null || true
failed=0
[ $# -gt 0 ] || set -- 4.2 3
for version in "$@"; do
  cat > "$first/command" <<COMMAND
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
bash "/host$folder/guest.sh" "/host$folder/twdag" "$version" ${NFS_SCENARIOS:-}
echo "ended with \$?"
busybox poweroff -f
COMMAND
  (cd "$first" && find . | "$root/bin/busybox" cpio -o -H newc 2> /dev/null) > "$folder/first.cpio"
  # Where others use the processors, the kernel may wait in vain for the timer that it tests when it starts.
  timeout "${NFS_SECONDS:-3000}" qemu-system-x86_64 -accel "${NFS_ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m 2G -nographic -no-reboot -nic none \
    -kernel "$root/boot/vmlinuz-$release" -initrd "$folder/first.cpio" -append "console=ttyS0 quiet panic=1 rdinit=/init mitigations=off no_timer_check" \
    -virtfs local,path="$root",mount_tag=packages,security_model=none,readonly=on,multidevs=remap \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    < /dev/null | stdbuf -o0 tr -d '\r' | tee "$folder/output" || true
  grep -q '^ended with 0$' "$folder/output" || failed=1
done
exit $failed
