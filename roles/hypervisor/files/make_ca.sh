#!/bin/sh
# make_ca.sh DIRECTORY: the cloud's own certificate authority, once. It signs hosts that guests move between.
set -eu
umask 077
directory=$1
mkdir -p "$directory"
chmod 0700 "$directory"
exec 9>"$directory/lock" # hosts are prepared side by side
flock -w 60 9
if [ -s "$directory/ca.key" ] && [ -s "$directory/ca.pem" ]; then
    echo unchanged
    exit 0
fi
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$directory/ca.key.new"
openssl req -x509 -new -key "$directory/ca.key.new" -days 7300 -subj "/O=Kumo/CN=Kumo cloud $(openssl rand -hex 4)" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -out "$directory/ca.pem.new"
mv "$directory/ca.key.new" "$directory/ca.key"
mv "$directory/ca.pem.new" "$directory/ca.pem"
echo made
