#!/usr/bin/env bash
# One command from a bare Debian 12 machine to a cloud with a first server in it.
# It only arranges: what a host needs is in roles/, and is brought about by ansible-playbook.
# unstack.sh takes it all away again.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/stack_state.sh
. "$here/scripts/stack_state.sh"

usage() {
    cat <<TEXT
usage: ./stack.sh [--no-first-server] [--inventory DIR] [--help]

Prepares this machine (Debian 12, as root) and runs Kumo on it: packages, libvirt, database, API,
worker and a guest image; then makes a first server through the API and logs in to it.
Run it again at any time: it changes only what is not as it should be, and after a reboot of a
machine without systemd it brings everything back.

  --no-first-server  leave out the network, the server and the other things of the first session
  --inventory DIR    an Ansible inventory of your own (default: inventories/single-node)

The whole output is kept in /var/log/kumo/stack.log. ./unstack.sh takes everything away again.
TEXT
}

first_server=yes
inventory=$here/inventories/single-node
while [ $# -gt 0 ]; do
    case $1 in
        --no-first-server) first_server=no ;;
        --inventory)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            inventory=$(realpath "$2")
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) echo "stack.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

fail() { echo "stack.sh: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "run me as root (sudo ./stack.sh)"
[ -r /etc/debian_version ] && command -v apt-get >/dev/null || fail "this machine is not Debian; Kumo runs on Debian 12"
[ -x /usr/bin/python3 ] || [ "$(cut -d . -f 1 /etc/debian_version)" = 12 ] || fail "there is no /usr/bin/python3 here"
[ -e "$inventory" ] || fail "there is no inventory $inventory"

# What the caller's shell holds must not decide what is installed or where.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV ANSIBLE_CONFIG
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LANG=C.UTF-8 LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PIP_ROOT_USER_ACTION=ignore
export ANSIBLE_HOME=/var/cache/kumo/ansible

lock_stack
mkdir -p /var/lib/kumo /var/log/kumo
log=/var/log/kumo/stack.log
touch "$log"
chmod 0600 "$log"
exec > >(exec 9>&-; exec tee -a "$log") 2>&1

started=$SECONDS
now=""
step() { now=$*; printf '[%4d s] %s\n' $((SECONDS - started)) "$*"; }
background=""
finish() {
    local code=$?
    if [ -n "$background" ]; then kill "$background" 2>/dev/null || true; fi
    [ -d "$STATE" ] && settle_packages
    if [ $code -ne 0 ]; then
        printf '\nstack.sh: stopped at "%s". What happened is above and in %s; mend it and run me again.\n' "$now" "$log"
    fi
    exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "stack.sh $(date --iso-8601=seconds)" >>"$log"
record_before
begin_packages

step "Debian packages that Ansible needs"
needed=(ca-certificates iproute2 iputils-ping openssh-client procps python3 python3-apt python3-venv sudo)
missing=()
for package in "${needed[@]}"; do
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
# A run that was killed in the middle of dpkg leaves packages half installed, and apt refuses to go on. So does
# somebody else's apt that is at work right now: dpkg does not wait for its lock by itself.
tries=0
until [ -z "$(dpkg --audit 2>/dev/null)" ] || dpkg --configure -a --force-confold; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || fail "dpkg --configure -a does not succeed; run it yourself and see what it says"
    sleep 5
done
if [ ${#missing[@]} -gt 0 ]; then
    apt-get -q -o DPkg::Lock::Timeout=300 update
    apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "${missing[@]}"
fi

step "Python packages of the control plane (/opt/kumo/venv)"
mkdir -p /opt/kumo
install_venv=$here/roles/controller/files/install_venv.sh
# The client's packages come down while Ansible works.
"$install_venv" /opt/kumo/client-venv "$here/requirements-client.txt" >/opt/kumo/client-venv.log 2>&1 9>&- &
background=$!
"$install_venv" /opt/kumo/venv "$here/requirements.txt" >/dev/null

step "The cloud's roles (playbooks/site.yml)"
cd "$here"
ANSIBLE_CONFIG=$here/ansible.cfg ANSIBLE_STDOUT_CALLBACK=kumo_steps ANSIBLE_FORCE_COLOR=0 KUMO_STEPS_SINCE=$((SECONDS - started)) \
    /opt/kumo/venv/bin/ansible-playbook -i "$inventory" playbooks/site.yml 9>&- </dev/null
settle_packages

step "Python packages of the client (/opt/kumo/client-venv)"
if ! wait "$background"; then
    background=""
    cat /opt/kumo/client-venv.log
    fail "the client's packages could not be installed"
fi
background=""
rm -f /opt/kumo/client-venv.log

mkdir -p /opt/kumo/bin
ln -sfn ../client-venv/bin/openstack /opt/kumo/bin/openstack
ln -sfn ../venv/bin/kumo /opt/kumo/bin/kumo

step "Clouds for the client (/etc/openstack/clouds.yaml, /etc/kumo/openrc)"
/opt/kumo/venv/bin/python "$here/scripts/clouds.py" write

if [ "$first_server" = yes ]; then
    step "The first server"
    KUMO_STEPS_SINCE=$((SECONDS - started)) /opt/kumo/client-venv/bin/python "$here/scripts/first_server.py" 9>&- </dev/null
fi

step "Done"
cat <<TEXT

The cloud is at http://127.0.0.1:6780. Next, for instance:

  . /etc/kumo/openrc                       # openstack as a member of a project, and kumo, in this shell
  openstack server list
  openstack server create --image kumo-guest --flavor m1.micro --network private --wait second
  export OS_CLOUD=kumo-admin               # the operator
  kumo status

TEXT
