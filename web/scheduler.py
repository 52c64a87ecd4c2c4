"""Which host a new guest goes to: filters with a reason for each host refused, then the one with most room.

Pure: no session, no clock. Its callers count what each host's guests use from rows, in the transaction
that places the guest, so two requests cannot be given the same room. Next rooms: `capacity.py`, which reads
the candidates; `move_scheduler.py`, which has what moves ask for beside room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Candidate:
    """A host as the choice sees it. Memory in MiB, disk in GiB; ``used_*`` sum the flavors of its guests."""

    id: str
    name: str
    zone: str
    enabled: bool
    up: bool
    vcpus: int
    memory_mb: int
    disk_gb: int
    used_vcpus: int = 0
    used_memory_mb: int = 0
    used_disk_gb: int = 0
    hypervisor: bool = True


@dataclass(frozen=True)
class Company:
    """The other members of a guest's server group: for each the ids of the hosts it counts on (two while it moves).

    ``policy`` is one of the API's four, ``most`` how many members of an anti-affinity group a host may have.
    """

    policy: str
    most: int = 1
    places: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True)
class Demand:
    """What one guest needs. ``zone`` and ``host`` (a name, chosen by an admin) narrow the choice.

    ``avoid`` is {host id: why not}. A host that was asked for by name may be a disabled one, unless ``enabled_only``.
    """

    vcpus: int
    memory_mb: int
    disk_gb: int
    zone: str | None = None
    host: str | None = None
    avoid: Mapping[str, str] = field(default_factory=dict)
    enabled_only: bool = False
    company: Company | None = None


@dataclass(frozen=True)
class Offer:
    """How much of a host is offered: vCPUs per core, memory and disk in percent of what it has."""

    cpu_ratio: int = 16
    memory_percent: int = 150
    disk_percent: int = 100


class NoValidHost(Exception):
    """No host can take the guest. ``reasons`` is {host name: sentence}."""

    def __init__(self, reasons: dict[str, str]):
        self.reasons = reasons
        super().__init__("No valid host was found. There are not enough hosts available.")

    @property
    def details(self) -> str:
        """The reason for each host, a line each."""
        if not self.reasons:
            return "There is no hypervisor at all."
        return "\n".join(f"{name}: {reason}" for name, reason in sorted(self.reasons.items()))


def is_up(
    observed_at: datetime | None, forced_down: bool, at: datetime, sweep_s: int, failures: int | None = None
) -> bool:
    """Whether a host counts as up: seen within three sweeps of ``sweep_s`` seconds.

    With ``failures`` (runs that failed in a row) a host that was seen once and never failed since is up
    too: it is the worker that pauses then, and it will find the guest when it is back.
    """
    if forced_down or observed_at is None:
        return False
    return failures == 0 or at - observed_at <= timedelta(seconds=3 * sweep_s)


def explain_company(company: Company, host_id: str) -> str | None:
    """Why the host would break the group's policy; None where it would not. Soft policies forbid no host."""
    here = count_company(company, host_id)
    if company.policy == "anti-affinity" and here >= company.most:
        return f"it has {here} members of the server group already, which is anti-affinity of {company.most} per host"
    if company.policy == "affinity" and any(place != {host_id} for place in company.places):
        return "the server group is affinity, and its members are on another host or on their way"
    return None


def count_company(company: Company, host_id: str) -> int:
    """How many of the group's other members count on the host."""
    return sum(host_id in place for place in company.places)


def _rank_company(company: Company | None, host_id: str) -> int:
    """The lower the better a host suits a soft policy."""
    if company is None or not company.policy.startswith("soft-"):
        return 0
    here = count_company(company, host_id)
    return here if company.policy == "soft-anti-affinity" else -here


def explain(candidate: Candidate, demand: Demand, offer: Offer) -> str | None:
    """Why the host cannot take the guest; None where it can."""
    if not candidate.hypervisor:
        return "it is no hypervisor"
    if demand.host is not None and candidate.name != demand.host:
        return f"another host was asked for: {demand.host}"
    if demand.zone is not None and candidate.zone != demand.zone:
        return f"it is in the zone {candidate.zone}, not in {demand.zone}"
    if not candidate.enabled and (demand.host is None or demand.enabled_only):
        return "it is disabled"
    if not candidate.up:
        return "it is down"
    if candidate.id in demand.avoid:
        return demand.avoid[candidate.id]
    apart = None if demand.company is None else explain_company(demand.company, candidate.id)
    if apart is not None:
        return apart
    rooms = (
        ("vCPUs", demand.vcpus, candidate.vcpus * offer.cpu_ratio - candidate.used_vcpus),
        ("MiB of memory", demand.memory_mb, _memory_left(candidate, offer)),
        ("GiB of disk", demand.disk_gb, candidate.disk_gb * offer.disk_percent // 100 - candidate.used_disk_gb),
    )
    for what, needed, left in rooms:
        if needed > left:
            return f"{needed} {what} are needed and {max(left, 0)} are left"
    if demand.vcpus > candidate.vcpus and offer.cpu_ratio > 0:
        return f"a guest of {demand.vcpus} vCPUs does not fit its {candidate.vcpus} cores"
    return None


def _memory_left(candidate: Candidate, offer: Offer) -> int:
    return candidate.memory_mb * offer.memory_percent // 100 - candidate.used_memory_mb


def choose_host(candidates: list[Candidate], demand: Demand, offer: Offer) -> str:
    """The id of the host for the guest: as a soft group has it, most memory left, fewest vCPUs used, by name.

    NoValidHost with the reason for each host where none can take it.
    """
    reasons = {candidate.name: explain(candidate, demand, offer) for candidate in candidates}
    able = [candidate for candidate in candidates if reasons[candidate.name] is None]
    if not able:
        raise NoValidHost({name: reason for name, reason in reasons.items() if reason is not None})
    best = min(
        able,
        key=lambda one: (
            _rank_company(demand.company, one.id), -_memory_left(one, offer), one.used_vcpus, one.name,
        ),
    )  # fmt: skip
    return best.id


@dataclass(frozen=True)
class StorageCandidate:
    """A storage host as the choice sees it; sizes in GiB, ``used_gb`` sums what is wanted of it."""

    id: str
    name: str
    zone: str
    enabled: bool
    up: bool
    backend: str
    total_gb: int
    used_gb: int = 0


def explain_storage(
    candidate: StorageCandidate, size_gb: int, percent: int, zone: str | None, backend: str | None
) -> str | None:
    """Why the storage host cannot take the volume; None where it can."""
    if zone is not None and candidate.zone != zone:
        return f"it is in the zone {candidate.zone}, not in {zone}"
    if not candidate.enabled:
        return "it is disabled"
    if not candidate.up:
        return "it is down"
    if backend is not None and candidate.backend != backend:
        return f"its backend is {candidate.backend}, not {backend}"
    left = candidate.total_gb * percent // 100 - candidate.used_gb
    if size_gb > left:
        return f"{size_gb} GiB are needed and {max(left, 0)} are left"
    return None


def choose_storage(
    candidates: list[StorageCandidate], size_gb: int, percent: int, zone: str | None = None, backend: str | None = None
) -> str:
    """The id of the storage host with most room left; NoValidHost with the reason for each host where none can."""
    reasons = {one.name: explain_storage(one, size_gb, percent, zone, backend) for one in candidates}
    able = [one for one in candidates if reasons[one.name] is None]
    if not able:
        raise NoValidHost(
            {name: reason for name, reason in reasons.items() if reason} or {"": "there is no storage host"}
        )
    return min(able, key=lambda one: (one.used_gb - one.total_gb * percent // 100, one.name)).id
