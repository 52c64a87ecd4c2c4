#!/usr/bin/env bash
# Leaves the machine as it was before stack.sh. Runs twice, on half of an installation, and after
# everything was killed; what is not Kumo's (other guests, bridges, rules, clouds) is not touched.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/stack_state.sh
. "$here/scripts/stack_state.sh"

usage() {
    cat <<TEXT
usage: ./unstack.sh [--keep-data] [--keep-packages] [--dry-run] [--help]

Takes Kumo off this machine: its guests, processes, bridges, namespaces, firewall chains, files and
account, and the Debian packages that came with it.

  --keep-data      keep the database, images, guests' disks, keys and passwords (/var/lib/kumo, parts of
                   /etc/kumo) and the account they belong to; the next stack.sh goes on with them
  --keep-packages  keep the Debian packages
  --dry-run        only say what would be done
TEXT
}

keep_data=no keep_packages=no dry_run=no
while [ $# -gt 0 ]; do
    case $1 in
        --keep-data) keep_data=yes ;;
        --keep-packages) keep_packages=yes ;;
        --dry-run) dry_run=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "unstack.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[ "$(id -u)" = 0 ] || { echo "unstack.sh: run me as root (sudo ./unstack.sh)" >&2; exit 1; }

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LANG=C.UTF-8 LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive SUDO_FORCE_REMOVE=yes
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
cd /
lock_stack

started=$SECONDS
step() { printf '[%4d s] %s\n' $((SECONDS - started)) "$*"; }
act() {
    if [ "$dry_run" = yes ]; then printf '  would %s\n' "$*"; else "$@"; fi
}
teardown() {
    local options=()
    if [ "$dry_run" = yes ]; then options=(--dry-run); fi
    if [ ! -x /usr/bin/python3 ]; then
        echo "  there is no /usr/bin/python3 any more: an earlier run has been here"
        return 0
    fi
    /usr/bin/python3 "$here/scripts/teardown.py" "$@" "${options[@]}" 9>&-
}
remove() {
    # Files and directories that are there; others are none of our business.
    local path
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then act rm -rf --one-file-system "$path"; fi
    done
}

step "Services, guests and networks"
teardown services guests network daemons moves settings

step "Clouds of the client"
if [ "$dry_run" = no ] && [ -x /usr/bin/python3 ]; then /usr/bin/python3 "$here/scripts/clouds.py" remove; fi

if [ "$dry_run" = no ] && [ -d "$STATE" ]; then settle_packages; fi
failed=no packages=()
if [ "$keep_packages" = no ] && [ -f "$STATE/packages" ]; then
    step "Debian packages that came with stack.sh"
    mapfile -t packages < <(list_present | LC_ALL=C comm -12 "$STATE/packages" - | {
        # An init that came with us and runs by now cannot be taken away under itself.
        if [ -d /run/systemd/system ]; then grep -vxE 'systemd|systemd-sysv' || true; else cat; fi
    })
    # What something else has come to need since stays: apt is asked before it is told.
    for _ in 1 2 3 4 5 6 7 8; do
        [ ${#packages[@]} -gt 0 ] || break
        mapfile -t others < <(apt-get -s purge "${packages[@]}" | sed -n 's/^Purg \([^ :]*\).*/\1/p' | LC_ALL=C sort -u |
            LC_ALL=C comm -23 - <(printf '%s\n' "${packages[@]}"))
        [ ${#others[@]} -gt 0 ] || break
        echo "  kept, with what they need: ${others[*]}"
        mapfile -t packages < <(printf '%s\n' "${packages[@]}" | LC_ALL=C comm -23 - <(
            apt-cache --recurse --installed --important depends "${others[@]}" | sed -n 's/^ *\(Pre\)\?Depends: <\?\([^:>]*\).*/\2/p' |
                LC_ALL=C sort -u))
    done
    if [ ${#packages[@]} -gt 0 ]; then
        act apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 purge "${packages[@]}" || {
            echo "  ! apt could not remove all of them; going on" >&2
            failed=yes
        }
    fi
fi

step "Files"
for unit in kumo-api kumo-worker kumo-console kumo-metadata kumo-tgtd; do remove "/etc/systemd/system/$unit.service"; done
remove /etc/tmpfiles.d/kumo.conf
if [ -d /run/systemd/system ]; then act systemctl daemon-reload; fi
remove /opt/kumo /usr/local/lib/kumo /etc/sudoers.d/kumo /run/kumo /var/cache/kumo "$here/.cache/src.tar" "$here/.cache/root.tar"
for directory in /root/.ansible/tmp /root/.ansible "$here/.cache" /usr/local/lib/kumo; do
    if [ -d "$directory" ]; then act rmdir --ignore-fail-on-non-empty "$directory"; fi
done

if [ -f "$STATE/before/kvm" ] && [ -e /dev/kvm ] && [ ! -d /run/udev/data ]; then
    read -r owner mode <"$STATE/before/kvm"
    act chown "$owner" /dev/kvm
    act chmod "$mode" /dev/kvm
fi

# What libvirt and its like left where they keep files, unless somebody else's libvirt still uses it.
if [ -f "$STATE/before/paths" ] && ! pidof libvirtd virtlogd >/dev/null; then
    mapfile -t fresh < <(list_watched | LC_ALL=C comm -13 "$STATE/before/paths" - | LC_ALL=C sort -r)
    foreign=no
    for path in "${fresh[@]}"; do
        case $path in /etc/libvirt/*/autostart/* | /etc/libvirt/qemu/*.xml | /etc/libvirt/storage/*.xml) foreign=yes ;; esac
    done
    if [ ${#packages[@]} -gt 0 ]; then foreign=no; fi
    for path in "${fresh[@]}"; do
        # Namespaces of ours went with the networks.
        case $path in /etc/openstack* | /run/netns/*) continue ;; esac
        if [ $foreign = yes ]; then case $path in /run/* | /var/cache/* | /var/log/libvirt/qemu/kumo-*) ;; *) continue ;; esac; fi
        if [ -d "$path" ] && [ ! -L "$path" ]; then
            act rmdir --ignore-fail-on-non-empty "$path" || failed=yes
        else
            act rm -f "$path"
        fi
    done
fi

if [ -f "$STATE/before/sysctls" ]; then
    # Those that only we have a reason to change and that the modules' own record may have missed.
    while IFS= read -r line; do
        name=${line%% = *} value=${line#* = }
        case $name in net.ipv4.ip_forward | net.bridge.bridge-nf-call-*) ;; *) continue ;; esac
        if [ "$(sysctl -n "$name" 2>/dev/null || echo "$value")" != "$value" ]; then act sysctl -q -w "$name=$value"; fi
    done <"$STATE/before/sysctls"
fi

step "Accounts"
forget_account() {
    if getent passwd "$1" >/dev/null; then act userdel "$1" 2>/dev/null || true; fi
    if getent group "$1" >/dev/null; then act groupdel "$1" 2>/dev/null || true; fi
}
was_there() { [ ! -f "$STATE/before/users" ] || grep -qxF "$1" "$STATE/before/users" "$STATE/before/groups"; }
if [ "$keep_data" = no ] && ! { [ -f "$STATE/before/users" ] && grep -qxF kumo "$STATE/before/users"; }; then
    forget_account kumo
fi
# Packages' own accounts and empty directories outlive them; those that came with ours go with ours.
for row in libvirt-qemu:libvirt-daemon-system libvirt:libvirt-daemon-system dnsmasq:dnsmasq-base messagebus:dbus-daemon \
    polkitd:polkitd _ssh:openssh-client systemd-network:systemd systemd-journal:systemd systemd-resolve:systemd \
    rdma:libibverbs1 kvm:qemu-system-common; do
    if [[ " ${packages[*]} " == *" ${row#*:} "* ]] && ! was_there "${row%:*}"; then forget_account "${row%:*}"; fi
done
if [ ${#packages[@]} -gt 0 ] && [ -f "$STATE/before/directories" ]; then
    list_directories | LC_ALL=C comm -13 "$STATE/before/directories" - | LC_ALL=C sort -r | while IFS= read -r path; do
        act rmdir --ignore-fail-on-non-empty "$path" || true
    done
fi

step "Data"
if [ "$keep_data" = yes ]; then
    remove /etc/kumo/supervisord.conf /etc/kumo/supervisor.d /etc/kumo/kumo.conf /etc/kumo/openrc /var/lib/kumo/runs
    remove /var/lib/kumo/host/networks /var/lib/kumo/host/metadata /var/lib/kumo/host/tasks /var/lib/kumo/host/physical.json
    # What the machine was before the first stack.sh is still what a later unstack.sh goes back to.
    if [ ${#packages[@]} -gt 0 ]; then remove "$STATE/packages"; fi
    echo "  kept: /var/lib/kumo, /etc/kumo/passwords, /etc/kumo/keys, the account kumo"
else
    remove /etc/kumo /var/lib/kumo
fi
remove /var/log/kumo
if [ "$dry_run" = no ]; then rm -f "$LOCK"; fi
step "Done"
[ "$failed" = no ]
