# shellcheck shell=bash
# What the machine was before stack.sh: written by stack.sh, read by unstack.sh. Sourced, never run.
#
# Owns STATE and the files in it:
#   before/    users groups sysctls paths directories tables kvm   as the first stack.sh found them
#   packages   Debian packages that appeared while a stack.sh was at work, one a line
#   pending    all packages at the start of a stack.sh that has not ended yet (it was killed: see settle_packages)
# Nothing here changes anything outside STATE.

STATE=/var/lib/kumo/stack-state
LOCK=/run/lock/kumo-stack.lock
# Where libvirt and others keep files even when only running: what is new there afterwards came with us.
WATCHED=(
    /etc/apparmor.d/local/abstractions /etc/libvirt /etc/openstack /run/libvirt /var/cache/libvirt /var/lib/libvirt /var/log/libvirt /var/log/swtpm
    /var/lib/dnsmasq /var/lib/misc /run/lock/libvirt /etc/dnsmasq.d /etc/iproute2 /run/netns /run/dnsmasq
    /run/libvirtd.pid /run/virtlogd.pid /run/libvirt-sock /run/systemd/machines
)
# Where packages leave empty directories behind.
EMPTIED=(
    /etc/apparmor.d /etc/sudoers.d /etc/xml /etc/sgml /run/adduser /run/dbus /var/cache/private /var/lib/machines
    /var/lib/portables /var/lib/private /var/lib/systemd /var/log/private
)
SYSCTL_NAMES='^net\.(ipv4\.ip_forward|ipv6\.conf\.(all|default)\.(forwarding|disable_ipv6|accept_ra)|ipv4\.conf\.(all|default)\.(rp_filter|forwarding|arp_ignore|arp_announce|proxy_arp)|bridge\.|netfilter\.nf_conntrack_max)'

lock_stack() {
    # One stack.sh or unstack.sh at a time. The descriptor is closed for what outlives us: see close_lock.
    mkdir -p "${LOCK%/*}"
    exec 9>"$LOCK"
    if ! flock --nonblock 9; then
        echo "another stack.sh or unstack.sh is at work (it holds $LOCK)" >&2
        exit 1
    fi
}

list_packages() {
    dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | LC_ALL=C sort -u
}

list_present() {
    # Installed, half installed, or removed with their configuration left.
    dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' | sed -n '/^not-installed /d; s/^[^ ]* //p' | LC_ALL=C sort -u
}

list_watched() {
    local path
    for path in "${WATCHED[@]}"; do
        if [ -e "$path" ] || [ -L "$path" ]; then find "$path" -xdev 2>/dev/null || true; fi
    done | LC_ALL=C sort -u
}

list_directories() {
    local path
    for path in "${EMPTIED[@]}"; do
        if [ -d "$path" ]; then find "$path" -xdev -type d 2>/dev/null || true; fi
    done | LC_ALL=C sort -u
}

record_before() {
    local tool
    # Once, before anything is changed. A record that was cut short is not there yet: it is renamed into place.
    if [ -d "$STATE/before" ]; then return 0; fi
    rm -rf "$STATE/before.new"
    mkdir -p "$STATE/before.new"
    chmod 0700 "$STATE"
    cut -d : -f 1 /etc/passwd | LC_ALL=C sort >"$STATE/before.new/users"
    cut -d : -f 1 /etc/group | LC_ALL=C sort >"$STATE/before.new/groups"
    { sysctl --all 2>/dev/null || true; } | { grep -E "$SYSCTL_NAMES" || true; } >"$STATE/before.new/sysctls"
    list_watched >"$STATE/before.new/paths"
    list_directories >"$STATE/before.new/directories"
    for tool in iptables ip6tables ebtables; do
        if command -v "$tool-save" >/dev/null; then "$tool-save" | sed -n "s/^\*/$tool /p"; fi
    done >"$STATE/before.new/tables"
    if [ -e /dev/kvm ]; then stat -c '%u:%g %a' /dev/kvm >"$STATE/before.new/kvm"; fi
    mv "$STATE/before.new" "$STATE/before"
}

begin_packages() {
    settle_packages
    list_packages >"$STATE/pending.new"
    mv "$STATE/pending.new" "$STATE/pending"
}

settle_packages() {
    # Packages that are there now and were not when stack.sh began are ours to take away again.
    if [ ! -f "$STATE/pending" ]; then return 0; fi
    touch "$STATE/packages"
    { cat "$STATE/packages"; list_packages | LC_ALL=C comm -13 "$STATE/pending" -; } | LC_ALL=C sort -u >"$STATE/packages.new"
    mv "$STATE/packages.new" "$STATE/packages"
    rm -f "$STATE/pending"
}
