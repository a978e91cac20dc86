# For the scripts beside it that try something in a virtual machine under emulation; sourced, and used in an empty directory.
# Debian's packages: qemu-system-x86 busybox-static cpio. `root/` is what the machine boots, with an executable `root/init`.

# Debian's kernel and these packages, fetched, not installed, and taken apart here.
fetch_kernel() {
    local kernel deb
    kernel=$(apt-cache depends --important linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    apt-get -qq download "$kernel" "$@"
    for deb in ./*.deb; do dpkg -x "$deb" . && echo "$deb"; done
}

# The libraries of these programs, to where they expect them.
copy_libraries() {
    local lib
    for lib in $(ldd "$@" 2>/dev/null | grep -oE '/[^ ]+\.so[^ ]*' | grep -v : | sort -u); do install -D "$lib" "root$lib"; done
}

# Boots with so many MiB and these words for the kernel; what the machine says goes to `log`, too.
boot() {
    chmod +x root/init
    (cd root && find . | cpio -oH newc --quiet | gzip -1) > initramfs
    timeout 600 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "$1" -nodefaults -display none -no-reboot -serial stdio \
        -kernel boot/vmlinuz-* -initrd initramfs -append "$2 console=ttyS0 quiet panic=-1" < /dev/null | tee log
}
