"""A security group's rule, and a floating address, until traffic passes: a ping every 20 ms from this machine.

A part of `bench/run`.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time

from .cloud import Cloud, Missing, say, wait_until_quiet
from .figures import Figure

PING_S = 0.02


def wait_for_answer(address: str, seconds: float = 60) -> None:
    """Until a ping is answered; Missing where none is."""
    command = ["ping", "-n", "-i", str(PING_S), "-c", str(int(seconds / PING_S)), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ping:
        try:
            if not any("bytes from" in line for line in ping.stdout):
                raise Missing(f"{address} does not answer within {seconds} s")
        finally:
            ping.kill()


def measure(rounds: int) -> list[Figure]:
    """The part's figures; one guest for all rounds, whose address and rule come and go."""
    cloud = Cloud()
    network = cloud.sdk.network
    by_address, by_rule = [], []
    with contextlib.ExitStack() as made:
        group = network.create_security_group(name="bench")
        made.callback(network.delete_security_group, group)
        server = cloud.post_server("bench-network", security_groups=[{"name": "bench"}])
        made.callback(cloud.delete_server, server)
        floating = network.create_ip(floating_network_id=cloud.public.id)
        made.callback(network.delete_ip, floating)
        address = floating.floating_ip_address
        wanted = {"security_group_id": group.id, "direction": "ingress", "protocol": "icmp"}
        cloud.wait_until_active(server)
        (port,) = network.ports(device_id=server.id)
        rule = network.create_security_group_rule(**wanted)
        network.update_ip(floating, port_id=port.id)
        wait_for_answer(address, 120)  # the guest is up
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}: a floating address, a rule")
            network.update_ip(floating, port_id=None)
            wait_until_quiet()
            started = time.perf_counter()
            network.update_ip(floating, port_id=port.id)
            wait_for_answer(address)
            by_address.append(time.perf_counter() - started)
            network.delete_security_group_rule(rule)
            wait_until_quiet()
            started = time.perf_counter()
            rule = network.create_security_group_rule(**wanted)
            wait_for_answer(address)
            by_rule.append(time.perf_counter() - started)
    return [
        Figure("security group rule to traffic", statistics.median(by_rule), "s", "0.67 s", most=0.6),
        Figure("floating address to traffic", statistics.median(by_address), "s", "1.7 s", most=0.9),
    ]
