#!/bin/sh
# sign_certificate.sh DIRECTORY NAME ADDRESS REQUEST: the certificate for a host's request (base64 of PEM). Whom it is
# for is said by the inventory; of the request only the public key is taken.
set -eu
umask 077
directory=$1 name=$2 address=$3 request=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%s' "$request" | openssl base64 -d -A | tr -d '\r' >"$work/request.pem"
openssl req -in "$work/request.pem" -noout -verify 2>/dev/null
openssl req -in "$work/request.pem" -noout -pubkey >"$work/public.pem"
cat >"$work/extensions" <<TEXT
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:$name, IP:$address
TEXT
openssl x509 -new -force_pubkey "$work/public.pem" -subj "/O=Kumo/OU=hypervisor/CN=$name" -days 825 \
    -set_serial "0x$(openssl rand -hex 16)" -CA "$directory/ca.pem" -CAkey "$directory/ca.key" \
    -extfile "$work/extensions" -out "$work/host.pem" 2>"$work/said" || {
    cat "$work/said" >&2
    exit 1
}
cat "$work/host.pem"
