#!/bin/sh
# request_certificate.sh DIRECTORY NAME ADDRESS: "good" where this host's certificate is of the CA beside it, for this
# name and address, and has RENEW_DAYS left; else a request for a new one. The key never leaves the host.
set -eu
umask 077
directory=$1 name=$2 address=$3
RENEW_DAYS=60
cd "$directory"
is_good() {
    [ -s host.key ] && [ -s host.pem ] || return 1
    openssl verify -CAfile ca.pem host.pem >/dev/null 2>&1 || return 1
    openssl x509 -in host.pem -noout -checkend $((RENEW_DAYS * 86400)) >/dev/null || return 1
    openssl x509 -in host.pem -noout -checkhost "$name" | grep -q 'does match' || return 1
    openssl x509 -in host.pem -noout -checkip "$address" | grep -q 'does match' || return 1
    [ "$(openssl pkey -in host.key -pubout)" = "$(openssl x509 -in host.pem -noout -pubkey)" ]
}
if is_good; then
    echo good
    exit 0
fi
if [ ! -s host.key ]; then
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out host.key.new
    mv host.key.new host.key
fi
openssl req -new -key host.key -subj "/O=Kumo/OU=hypervisor/CN=$name"
