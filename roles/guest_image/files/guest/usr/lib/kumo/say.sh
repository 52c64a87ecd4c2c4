# Sourced by the guest's scripts: say prints a line with the uptime on the console, so slow boot steps show.
say() {
    read -r kumo_uptime _ </proc/uptime
    echo "[$kumo_uptime] kumo: $*" >/dev/console
}
