"""Servers: posted, begun, deleted, ten at once; beside the same guest by hand, in the same rounds.

A part of `bench/run`; the guest's own boot is that of a twin of Kumo's guest (`by_hand.py`).
"""

from __future__ import annotations

import statistics
import time

import openstack

from .by_hand import Model, run_playbook
from .cloud import BEGUN, READY, Cloud, Missing, find_console, say, timed, wait_for, wait_for_line, wait_until_quiet
from .figures import Figure, format_quantity

TEN = 10
TEN_ROUNDS = 3  # of the rounds that were asked for: ten guests that boot load the machine for half a minute


def measure_life(cloud: Cloud) -> tuple[float, float, float]:
    """Seconds of POST to ACTIVE, of POST to the first word of the guest's own init, and of DELETE to gone."""
    wait_until_quiet()
    started = time.perf_counter()
    server = cloud.post_server("bench")
    try:
        cloud.wait_until_active(server)
        active = time.perf_counter() - started
        wait_for_line(find_console(server), BEGUN)
        begun = time.perf_counter() - started
        wait_for_line(find_console(server), READY)
        wait_until_quiet()
    except BaseException:
        cloud.delete_server(server)
        raise
    return active, begun, timed(lambda: cloud.delete_server(server))


def measure_ten(cloud: Cloud, admin) -> float:
    """Seconds until ten servers that are posted at once are all ACTIVE; the project's quota is raised for it."""
    quota = f"/os-quota-sets/{cloud.sdk.current_project_id}"
    admin.compute.put(quota, json={"quota_set": {"instances": -1, "cores": -1, "ram": -1}})
    servers: list = []
    try:
        wait_until_quiet()
        started = time.perf_counter()
        for number in range(TEN):
            servers.append(cloud.post_server(f"bench-{number}"))
        wanted = {server.id for server in servers}

        def are_active() -> bool:
            states = {one.id: one.status for one in cloud.sdk.compute.servers() if one.id in wanted}
            if "ERROR" in states.values():
                raise Missing("one of ten servers is in ERROR")
            return list(states.values()) == ["ACTIVE"] * TEN

        wait_for(are_active, "ten servers ACTIVE", 240, 0.1)
        return time.perf_counter() - started
    finally:
        for server in servers:
            cloud.sdk.compute.delete_server(server.id)
        for server in servers:
            cloud.sdk.compute.wait_for_delete(server, interval=0.5, wait=120)
        admin.compute.delete(quota)


def measure(rounds: int) -> list[Figure]:
    """The part's figures."""
    cloud, admin = Cloud(), openstack.connect(cloud="kumo-admin")
    say("a first server: the image gets into the host's cache, and twins by hand are made of its guest")
    first = cloud.post_server("bench-first")
    created, booted, played, actives, begun, gone = [], [], [], [], [], []
    try:
        cloud.wait_until_active(first)
        wait_for_line(find_console(first), READY)
        model = Model(first.id)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}: by hand, then by POST and DELETE")
            wait_until_quiet()
            by_hand = model.measure()
            created.append(by_hand[0])
            booted.append(by_hand[1])
            played.append(timed(run_playbook))
            for values, seconds in zip((actives, begun, gone), measure_life(cloud), strict=True):
                values.append(seconds)
    finally:
        cloud.delete_server(first)
    tens = []
    for number in range(min(rounds, TEN_ROUNDS)):
        say(f"ten servers at once, round {number + 1}")
        tens.append(measure_ten(cloud, admin))
    return build_figures(*map(statistics.median, (created, booted, played, actives, begun, gone, tens)))


def build_figures(
    created: float, booted: float, played: float, active: float, begun: float, gone: float, ten: float
) -> list[Figure]:
    """The figures of these medians, all in seconds."""
    by_hand = created + played
    return [
        Figure(
            "POST /servers to ACTIVE, image cached", active, "s", "5.9 s at its best, 7.1 s as packaged", most=2.0,
            ratio=active / by_hand, ratio_most=1.5,
            of=f"`virsh create` ({format_quantity(created, 's')}) and a playbook ({format_quantity(played, 's')})",
        ),
        Figure(
            "POST /servers to the guest's own init (aim: its boot by hand, and 2 s)", begun, "s", "14.6 s",
            most=booted + 2.0, ratio=begun / booted, of=f"`virsh create` of it by hand, {format_quantity(booted, 's')}",
        ),
        Figure("DELETE /servers to gone", gone, "s", "3.1 s", most=1.2),
        Figure("ten servers posted at once, all ACTIVE", ten, "s", "40 to 47 s", most=12.0),
    ]  # fmt: skip
