#!/bin/sh
# Have noVNC's files in DIRECTORY, out of Debian's package of it: install_novnc.sh DIRECTORY
# The files alone: the package itself brings Node.js, numpy and another websockify, 50 packages in all.
# Prints "changed" or "unchanged"; a run that was cut short is made good by the next.
set -eu
umask 022
directory=$1
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
candidate() { apt-cache policy novnc 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v none || true; }

installed=$(cat "$directory/.version" 2>/dev/null || true)
wanted=$(candidate)
# Where no list of packages is at hand, what is there is good.
if [ -n "$installed" ] && [ -f "$directory/vnc_lite.html" ] && { [ -z "$wanted" ] || [ "$wanted" = "$installed" ]; }; then
    rm -rf "$directory.new" "$directory.old"
    echo unchanged
    exit 0
fi
if [ -z "$wanted" ]; then
    apt-get -q -o DPkg::Lock::Timeout=300 update >&2
    wanted=$(candidate)
    [ -n "$wanted" ] || { echo "install_novnc.sh: apt knows no package novnc; see /etc/apt/sources.list" >&2; exit 1; }
fi
rm -rf "$directory.new"
mkdir -p "$directory.new/package"
cd "$directory.new"
# As root: apt's own account may not write here.
apt-get -q -o APT::Sandbox::User=root download "novnc=$wanted" >&2 || {
    apt-get -q -o DPkg::Lock::Timeout=300 update >&2
    wanted=$(candidate)
    apt-get -q -o APT::Sandbox::User=root download "novnc=$wanted" >&2
}
dpkg-deb --extract novnc_*.deb package
mv package/usr/share/novnc files
cp package/usr/share/doc/novnc/copyright files/copyright
[ -f files/vnc_lite.html ] || { echo "install_novnc.sh: novnc $wanted has no vnc_lite.html" >&2; exit 1; }
echo "$wanted" >files/.version
cd /
rm -rf "$directory.old"
if [ -d "$directory" ]; then mv "$directory" "$directory.old"; fi
mv "$directory.new/files" "$directory"
rm -rf "$directory.old" "$directory.new"
echo changed
