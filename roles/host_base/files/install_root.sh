#!/bin/sh
# Unpack DIR/root.tar as DIR/root, unless that is what is there: install_root.sh DIR
# Prints "changed" or "unchanged". A run that was cut short is made good by the next.
set -eu
umask 022
cd "$1"
wanted=$(sha256sum root.tar | cut -d ' ' -f 1)
if [ -d root ] && [ "$(cat root/.sha256 2>/dev/null)" = "$wanted" ]; then
    echo unchanged
    exit 0
fi
# A folder of its own: compiled files of other sources cannot be in it.
rm -rf root.new root.old
mkdir -m 0755 root.new
tar --extract --no-same-owner --touch --file root.tar --directory root.new
chown -R root:root root.new
/usr/bin/python3 -I -m compileall -q root.new >/dev/null
echo "$wanted" >root.new/.sha256
if [ -d root ]; then mv root root.old; fi
mv root.new root
rm -rf root.old
echo changed
