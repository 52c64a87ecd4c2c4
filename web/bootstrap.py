"""The first rows of a cloud: domain, projects, users, roles, flavors, the external network, this host.

`kumo bootstrap` runs it; a second run changes nothing that is there. Passwords come from a file.
"""

from __future__ import annotations

import netaddr
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from .auth import apply_key, hash_password
from .models import (
    Assignment,
    Domain,
    Flavor,
    Host,
    Implication,
    MetadefResourceType,
    Network,
    Project,
    Role,
    Subnet,
    User,
    VolumeType,
    now,
    touch,
)
from .models.host_images import apply_host_key

DOMAIN_ID = "default"
ROLES = ("admin", "manager", "member", "reader", "service")
IMPLIED = (("admin", "manager"), ("manager", "member"), ("member", "reader"))
FLAVORS = [  # id, name, vcpus, MiB, GB: DevStack's, so that habits and scripts carry over
    ("c1", "cirros256", 1, 256, 1),
    ("n1", "m1.nano", 1, 128, 1),
    ("1", "m1.tiny", 1, 512, 1),
    ("2", "m1.small", 1, 2048, 20),
    ("3", "m1.medium", 2, 4096, 40),
    ("4", "m1.large", 4, 8192, 80),
]
# What metadata definitions may speak of, as orchestration names it: the resources that have properties here.
RESOURCE_TYPES = (
    "OS::Cinder::Volume", "OS::Glance::Image", "OS::Nova::Aggregate", "OS::Nova::Flavor", "OS::Nova::Server",
)  # fmt: skip
# Without become: the host's root helper does what root must (docs/decisions/0007-root-helper.md).
LOCAL_STORAGE = {"backend": "file", "portal": "127.0.0.1:3260"}
LOCAL_CONNECTION = {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}


def apply_bootstrap(session: Session, settings, passwords: dict[str, str], hypervisor: bool = True) -> list[str]:
    """Make what is missing; a sentence for each thing made. ``passwords`` has "admin" and "demo"."""
    apply_key(settings.identity.key_dir)
    done: list[str] = ["key for hosts"] if apply_host_key(settings) else []
    _apply_identity(session, settings, passwords, done)
    session.flush()
    for flavor_id, name, vcpus, ram_mb, disk_gb in FLAVORS:
        if session.get(Flavor, flavor_id) is None and not session.scalar(select(Flavor.id).where(Flavor.name == name)):
            session.add(Flavor(id=flavor_id, name=name, vcpus=vcpus, ram_mb=ram_mb, disk_gb=disk_gb))
            done.append(f"flavor {name}")
    _apply_public_network(session, settings, done)
    for host in session.scalars(select(Host)):  # of an earlier release
        if "ansible_become" in host.connection and host.connection.get("ansible_connection") == "local":
            host.connection = {name: value for name, value in host.connection.items() if name != "ansible_become"}
            done.append(f"connection of host {host.name}")
    if hypervisor and session.scalar(select(Host).where(Host.name == settings.kumo.hostname)) is None:
        session.add(
            Host(
                name=settings.kumo.hostname,
                zone=settings.compute.availability_zone,
                roles=["hypervisor"],
                connection=dict(LOCAL_CONNECTION),
            )
        )
        done.append(f"host {settings.kumo.hostname}")
        session.flush()
    host = session.scalar(select(Host).where(Host.name == settings.kumo.hostname))
    if hypervisor and host is not None and "storage" not in host.roles:
        host.roles = [*host.roles, "storage"]
        host.settings = {**host.settings, "storage": dict(LOCAL_STORAGE)}
        touch(session, host.id)
        done.append(f"volumes on host {host.name}")
    _apply_resource_types(session, done)
    if session.scalar(select(func.count()).select_from(VolumeType)) == 0:
        session.add(VolumeType(name="__DEFAULT__", description="Default Volume Type"))
        done.append("volume type __DEFAULT__")
    return done


def _apply_resource_types(session: Session, done: list[str]) -> None:
    for name in RESOURCE_TYPES:
        if session.get(MetadefResourceType, name) is None:
            session.add(MetadefResourceType(name=name))
            done.append(f"resource type {name}")


def _apply_identity(session: Session, settings, passwords: dict[str, str], done: list[str]) -> None:
    if session.get(Domain, DOMAIN_ID) is None:
        session.add(Domain(id=DOMAIN_ID, name="Default", description="The default domain"))
        done.append("domain Default")
        session.flush()
    roles, made = {}, set()
    for name in ROLES:
        roles[name] = session.scalar(select(Role).where(Role.name == name, Role.domain_id.is_(None)))
        if roles[name] is None:
            roles[name] = Role(name=name)
            session.add(roles[name])
            made.add(name)
            done.append(f"role {name}")
    session.flush()
    for prior, implied in IMPLIED:
        if prior in made:  # one that was taken back since is not made again
            session.add(Implication(prior_id=roles[prior].id, implied_id=roles[implied].id))
    for user_name, project_name, role_name in (("admin", "admin", "admin"), ("demo", "demo", "member")):
        project = session.scalar(select(Project).where(Project.domain_id == DOMAIN_ID, Project.name == project_name))
        if project is None:
            project = Project(domain_id=DOMAIN_ID, name=project_name, description=f"The {project_name} project")
            session.add(project)
            done.append(f"project {project_name}")
        user = session.scalar(select(User).where(User.domain_id == DOMAIN_ID, User.name == user_name))
        if user is None:
            user = User(domain_id=DOMAIN_ID, name=user_name, tokens_valid_after=now())
            session.add(user)
            done.append(f"user {user_name}")
        if user.password_hash is None:  # one that was changed since is not changed back
            user.password_hash = hash_password(passwords[user_name], settings.identity.password_rounds)
            user.password_changed_at = now()
            done.append(f"password of {user_name}")
        session.flush()
        targets = [("project", project.id)]
        if role_name == "admin":
            targets += [("system", ""), ("domain", DOMAIN_ID)]
        for kind, target in targets:
            wanted = {"user_id": user.id, "role_id": roles[role_name].id, "target_kind": kind, "target_id": target}
            if session.scalar(select(func.count()).select_from(Assignment).filter_by(**wanted)) == 0:
                session.add(Assignment(**wanted))
                done.append(f"role {role_name} of {user_name} on {kind} {target}".rstrip())


def _apply_public_network(session: Session, settings, done: list[str]) -> None:
    name = settings.network.public_network
    if not name or session.scalar(select(Network).where(Network.name == name, Network.external)) is not None:
        return
    admin = session.scalar(select(Project).where(Project.domain_id == DOMAIN_ID, Project.name == "admin"))
    taken = set(session.scalars(select(Network.zone)))
    network = Network(
        project_id=admin.id,
        name=name,
        external=True,
        is_default=True,
        mtu=settings.network.mtu,
        network_type="flat",
        physical_network="public",
        zone=next(zone for zone in range(1, 65536) if zone not in taken),
    )
    session.add(network)
    session.flush()
    cidr = netaddr.IPNetwork(settings.network.public_cidr)
    session.add(
        Subnet(
            project_id=admin.id,
            name=f"{name}-subnet",
            network_id=network.id,
            ip_version=cidr.version,
            cidr=str(cidr.cidr),
            gateway_ip=settings.network.public_gateway,
            enable_dhcp=False,
            allocation_pools=[{"start": str(cidr[2]), "end": str(cidr[-2])}],
        )
    )
    done.append(f"external network {name} {cidr.cidr}")
