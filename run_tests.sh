#!/usr/bin/env bash
# Sets up what the tests need and runs them, tier by tier; the last line counts them all.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
cd "$here" || exit 1

usage() {
    cat <<TEXT
usage: ./run_tests.sh [TIER ...] [-- PYTEST OPTIONS]

  unit      lint, formatting, module and role documentation, pure functions, tables    ~1 minute
  api       the Flask app and the loop over SQLite and PostgreSQL                     ~12 minutes
  host      modules against this machine's libvirt, bridges, iptables in namespaces    ~18 minutes
  distributed  several API and worker processes over PostgreSQL, RabbitMQ and Redis    ~3 minutes
  hosts     several hosts over ssh: labs, and molecule's two-hypervisors               ~5 minutes
  e2e       ./stack.sh, unmodified clients, tempest, real guests, kills, ./unstack.sh  ~25 minutes
  molecule  all scenarios of molecule, each in whole                                   ~2 hours

Without a tier all but the last are run, as CI does, with api and hosts beside host and distributed, which mostly wait.
Root is needed for all but unit and api. Packages that are missing are installed (Debian's by apt, Python's into .venv).
e2e uses this machine's cloud and takes it away at its end.
TEXT
}

tiers=()
options=()
while [ $# -gt 0 ]; do
    case $1 in
        unit | api | host | distributed | e2e | hosts | molecule) tiers+=("$1") ;;
        -h | --help) usage; exit 0 ;;
        --) shift; options=("$@"); break ;;
        *) echo "run_tests.sh: unknown tier $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[ ${#tiers[@]} -gt 0 ] || tiers=(unit api host distributed hosts e2e)

unset PYTHONPATH PYTHONHOME VIRTUAL_ENV ANSIBLE_CONFIG OS_CLOUD
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LANG=C.UTF-8 LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PIP_ROOT_USER_ACTION=ignore
reports=$(mktemp -d)
failed=0
extra_passed=0
extra_failed=0
started=$SECONDS
beside=() # process groups of what runs beside this script's own work
trap '[ ${#beside[@]} = 0 ] || kill -- "${beside[@]/#/-}" 2>/dev/null; rm -rf "$reports"' EXIT

say() { printf '\n== [%4d s] %s\n' $((SECONDS - started)) "$*"; }

need_packages() {
    local missing=() package
    for package in "$@"; do
        [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Debian packages: ${missing[*]}"
    apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null &&
        apt-get -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "${missing[@]}" >/dev/null || {
        echo "run_tests.sh: apt-get could not install ${missing[*]}" >&2
        exit 1
    }
}

# One check that is no pytest run: counted like a test. What it said is then in $said.
check() {
    local name=$1
    shift
    said=$reports/check-$BASHPID.log
    if "$@" >"$said" 2>&1; then
        extra_passed=$((extra_passed + 1))
        echo "passed: $name"
    else
        extra_failed=$((extra_failed + 1))
        failed=1
        echo "FAILED: $name"
        tail -40 "$said"
    fi
}

run_pytest() {
    local name=$1
    shift
    .venv/bin/python -m pytest -q -p no:cacheprovider --durations=15 --durations-min=5 --junit-xml="$reports/$name.xml" "$@" "${options[@]}"
    local code=$?
    # Counted from the report; a run that made none has failed as a whole.
    if [ $code -ne 0 ]; then failed=1; fi
    if [ ! -e "$reports/$name.xml" ]; then extra_failed=$((extra_failed + 1)); fi
}

# begin_beside NAME COMMAND...: a part of the tests beside what follows, until `end_beside NAME` tells what it said.
begin_beside() {
    local name=$1
    shift
    say "$name: begun, beside what follows"
    set -m # a process group of its own, which ends with this script
    (
        trap - EXIT
        extra_passed=0 extra_failed=0 failed=0
        "$@"
        echo "$extra_passed $extra_failed $failed" >"$reports/$name.ended"
    ) >"$reports/$name.log" 2>&1 &
    beside[$!]=$!
    set +m
    printf -v "pid_$name" %s $!
}

end_beside() {
    local name=$1 pid=pid_$1 passed=0 wrong=1 bad=1
    wait "${!pid}"
    unset "beside[${!pid}]"
    say "$name: ended; what it said:"
    cat "$reports/$name.log"
    [ ! -e "$reports/$name.ended" ] || read -r passed wrong bad <"$reports/$name.ended"
    extra_passed=$((extra_passed + passed))
    extra_failed=$((extra_failed + wrong))
    [ "$bad" = 0 ] || failed=1
}

need_packages ca-certificates git python3 python3-venv
say "Python packages (.venv)"
roles/controller/files/install_venv.sh "$here/.venv" "$here/requirements-dev.txt" >"$reports/venv.log" 2>&1 || {
    cat "$reports/venv.log"
    echo "run_tests.sh: the Python packages could not be installed" >&2
    exit 1
}

run_unit() {
    say "unit: lint and documentation"
    local bin=$here/.venv/bin
    check "ruff check" "$bin/ruff" check .
    check "ruff format" "$bin/ruff" format --check .
    check "ansible-lint, production profile" env PATH="$bin:$PATH" ANSIBLE_CONFIG="$here/ansible.cfg" "$bin/ansible-lint" --offline --profile production
    local module
    for module in library/kumo_*.py; do
        module=$(basename "$module" .py)
        check "ansible-doc $module" env ANSIBLE_CONFIG="$here/ansible.cfg" "$bin/ansible-doc" -M library -t module "$module"
    done
    check "playbooks parse" env ANSIBLE_CONFIG="$here/ansible.cfg" "$bin/ansible-playbook" -i inventories/single-node --syntax-check playbooks/site.yml playbooks/apply_host.yml
    say "unit: pure functions and tables"
    run_pytest unit -n 2 tests/unit tests/golden tests/modules tests/test_completeness.py
}

need_api() {
    need_packages postgresql qemu-utils # images in every format that must be refused are made by qemu-img
}

run_api() {
    need_api
    say "api: SQLite"
    run_pytest api-sqlite -n 2 tests/api
    say "api: PostgreSQL"
    # A server of our own, on a socket in a folder of our own, with nothing to keep.
    local folder bin
    folder=$(mktemp -d /tmp/kumo-postgresql.XXXXXX)
    bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
    chown postgres "$folder"
    if runuser -u postgres -- env -C / "$bin/initdb" -D "$folder/data" -A trust >"$reports/initdb.log" 2>&1 &&
        runuser -u postgres -- env -C / "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" \
            -o "-c listen_addresses='' -k $folder -c fsync=off -c synchronous_commit=off -c full_page_writes=off" start >"$reports/pg.log" 2>&1; then
        KUMO_TEST_DATABASE_URL="postgresql+psycopg://postgres@/postgres?host=$folder" run_pytest api-postgresql -n 2 tests/api
        runuser -u postgres -- env -C / "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null
    else
        cat "$reports/initdb.log" "$reports/pg.log"
        echo "FAILED: PostgreSQL could not be started"
        extra_failed=$((extra_failed + 1))
        failed=1
    fi
    rm -rf "$folder"
}

need_root() {
    [ "$(id -u)" = 0 ] || { echo "run_tests.sh: the tier $1 needs root" >&2; exit 1; }
}

run_host() {
    need_root host
    # What the role installs on a host is what its tests run on.
    mapfile -t packages < <(.venv/bin/python scripts/list_packages.py)
    need_packages "${packages[@]}" busybox-static chromium curl genisoimage iputils-ping netbase openssh-client tcpdump util-linux
    say "host: libvirt, bridges, namespaces, iptables, the guest image"
    run_pytest host tests/host
}

run_distributed() {
    need_root distributed
    mapfile -t packages < <(.venv/bin/python scripts/list_packages.py)
    need_packages "${packages[@]}" postgresql rabbitmq-server redis-server util-linux
    say "distributed: PostgreSQL, RabbitMQ, Redis, several processes"
    run_pytest distributed tests/distributed
}

run_e2e() {
    need_root e2e
    # For tests/e2e/test_consoles.py, and before the machine is looked at that unstack.sh has to lead back to.
    need_packages chromium
    # What unstack.sh has to lead back to; a cloud that is here already is taken away first, by the last tests.
    if [ ! -e /opt/kumo ] && [ ! -e /etc/kumo ]; then
        .venv/bin/python tests/e2e/machine.py "$reports/before.json" && export KUMO_MACHINE_BEFORE=$reports/before.json
    fi
    say "e2e: a cloud by ./stack.sh"
    check "./stack.sh" ./stack.sh
    grep -E '^\[ *[0-9]+ s\] (Done|The|Debian|Python)' "$said"
    say "e2e: unmodified clients, real guests, kills, ./unstack.sh"
    run_pytest e2e tests/e2e/test_client.py tests/e2e/test_tempest.py tests/e2e/test_consoles.py tests/e2e/test_volumes.py tests/e2e/test_shelve.py tests/e2e/test_life.py tests/e2e/test_operator.py tests/e2e/test_hostile.py tests/e2e/test_soak.py tests/e2e/test_kill.py tests/e2e/test_stack.py tests/e2e/test_unstack.py
}

# One scenario of molecule in a lab of its own: each step, and that nothing is left of it.
run_scenario() {
    local scenario=$1
    say "molecule: $scenario"
    check "molecule test, $scenario" env PATH="$here/.venv/bin:$PATH" KUMO_TEST_REPORT="$reports/molecule-$scenario.xml" NO_COLOR=1 \
        "$here/.venv/bin/python" molecule/hosts/lab.py run "molecule/$scenario" -- "$here/.venv/bin/molecule" test -s "$scenario"
    check "nothing is left of $scenario" is_gone "$scenario"
}

is_gone() {
    local lab=$1${KUMO_LAB:+-$KUMO_LAB} left
    left=$(
        find /run/netns /var/lib/kumo-lab /sys/fs/cgroup -maxdepth 2 \( -name "kumo-lab-$lab" -o -name "kumo-lab-$lab.*" -o -path "/var/lib/kumo-lab/$lab" \) 2>/dev/null
        grep -F " /var/lib/kumo-lab/$lab/" /proc/self/mountinfo
        # A class for one letter: grep's own command line has the pattern, and must not be what it finds.
        grep -al "/var/lib/kumo-la[b]/$lab/" /proc/[0-9]*/cmdline 2>/dev/null
    )
    echo "$left"
    [ -z "$left" ]
}

need_hosts() {
    need_root "${1:-hosts}"
    need_packages e2fsprogs iproute2 mmdebstrap openssh-client qemu-block-extra qemu-system-x86 qemu-utils systemd-container
}

run_labs() {
    need_hosts "$1"
    check "the prepared tree" .venv/bin/python molecule/hosts/lab.py tree
    say "$1: labs that are made, killed and taken away"
    run_pytest lab tests/lab
}

run_hosts() {
    run_labs hosts
    run_scenario two-hypervisors
}

run_molecule() {
    run_labs molecule
    local folder
    for folder in molecule/*/molecule.yml; do run_scenario "$(basename "$(dirname "$folder")")"; done
}

# api wants processors and nothing else of this machine, and a scenario has its hosts to itself: they are run beside host
# and distributed, which mostly wait (for guests, boots, deadlines). Not beside unit, which takes both processors for its
# half minute, nor e2e and tests/lab, which look at what this machine has.
run_meanwhile() {
    local tier
    for tier in "$@"; do
        case $tier in
            api) renice -n 19 "$BASHPID" >/dev/null; run_api ;;
            hosts) renice -n 0 "$BASHPID" >/dev/null; run_scenario two-hypervisors ;;
        esac
    done
}

meanwhile=()
if [[ " ${tiers[*]} " == *" host "* ]]; then
    for tier in api hosts; do
        # One apt at a time: what they need is there before they begin.
        if [[ " ${tiers[*]} " == *" $tier "* ]]; then meanwhile+=("$tier") && "need_$tier"; fi
    done
fi
begun=
for tier in "${tiers[@]}"; do
    [[ " ${meanwhile[*]} " != *" $tier "* ]] || continue
    case $tier in
        host)
            [[ " ${meanwhile[*]} " != *" hosts "* ]] || run_labs hosts
            [ ${#meanwhile[@]} = 0 ] || { begin_beside meanwhile run_meanwhile "${meanwhile[@]}" && begun=1; }
            ;;
        e2e | molecule) [ -z "$begun" ] || { end_beside meanwhile && begun=; } ;;
    esac
    "run_$tier"
done
[ -z "$begun" ] || end_beside meanwhile

say "all tiers done: ${tiers[*]}"
exec .venv/bin/python - "$reports" "$extra_passed" "$extra_failed" "$failed" <<'PYTHON'
"""Adds up the reports; the last line of everything."""
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

folder, passed, failed, bad = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
skipped = 0
for report in sorted(folder.glob("*.xml")):
    for suite in ElementTree.parse(report).iter("testsuite"):
        count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        wrong = count["failures"] + count["errors"]
        failed, skipped = failed + wrong, skipped + count["skipped"]
        passed += count["tests"] - wrong - count["skipped"]
        print(f"{report.stem}: {count['tests']} tests, {float(suite.get('time', 0)):.0f} s")
shutil.rmtree(folder, ignore_errors=True)
if bad and not failed:
    failed = 1
print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
sys.exit(1 if failed or not passed else 0)
PYTHON
