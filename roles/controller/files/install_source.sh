#!/bin/sh
# Unpack /opt/kumo/src.tar as /opt/kumo/src, unless that is what is there: install_source.sh ROOT
# Prints "changed" or "unchanged". A run that was cut short is made good by the next.
set -eu
umask 022
root=$1
cd "$root"
wanted=$(sha256sum src.tar | cut -d ' ' -f 1)
if [ -d src ] && [ "$(cat src/.sha256 2>/dev/null)" = "$wanted" ]; then
    rm -rf src.new src.old
    echo unchanged
    exit 0
fi
rm -rf src.new
mkdir src.new
tar --extract --file src.tar --directory src.new --no-same-owner --no-same-permissions
echo "$wanted" >src.new/.sha256
rm -rf src.old
if [ -d src ]; then mv src src.old; fi
mv src.new src
rm -rf src.old
echo changed
