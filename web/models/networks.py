"""Networks, subnets, ports and their addresses, routers, floating addresses, security groups.

An address is a row with a unique key (subnet, address): two transactions cannot give out the same one.
A router's interfaces and gateways are ports, as the Network API shows them: on an external network it has one for
each host that has guests behind it (`../router_legs.py`).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Text, UniqueConstraint, event
from sqlalchemy.orm import Mapped, mapped_column, object_session, relationship

from .base import Base, new_uuid, now

ROUTER_INTERFACE = "network:router_interface"
ROUTER_GATEWAY = "network:router_gateway"  # what users see; the leg of the host in its host_id
ROUTER_HOST_GATEWAY = "network:router_host_gateway"  # the leg of a further host
GATEWAYS = (ROUTER_GATEWAY, ROUTER_HOST_GATEWAY)
FLOATING_IP = "network:floatingip"
DHCP = "network:dhcp"
COMPUTE = "compute:"


class Standard:
    """The attributes that every object of the Network API has."""

    id: Mapped[str] = mapped_column(primary_key=True, default=new_uuid)
    project_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str] = mapped_column(default="")
    description: Mapped[str] = mapped_column(Text, default="")
    revision_number: Mapped[int] = mapped_column(default=1)
    tags: Mapped[list] = mapped_column(default=list)
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


@event.listens_for(Standard, "before_update", propagate=True)
def _count_revision(mapper, connection, target):
    if object_session(target).is_modified(target, include_collections=False):
        target.revision_number += 1


class Network(Standard, Base):
    __tablename__ = "networks"

    admin_state_up: Mapped[bool] = mapped_column(default=True)
    shared: Mapped[bool] = mapped_column(default=False)
    external: Mapped[bool] = mapped_column(default=False)  # router:external
    is_default: Mapped[bool] = mapped_column(default=False)
    mtu: Mapped[int] = mapped_column(default=1500)
    network_type: Mapped[str] = mapped_column(default="local")  # local flat vlan vxlan
    physical_network: Mapped[str | None]
    segmentation_id: Mapped[int | None]
    zone: Mapped[int] = mapped_column(unique=True)  # conntrack zone, 1..65535
    port_security_enabled: Mapped[bool] = mapped_column(default=True)
    dns_domain: Mapped[str] = mapped_column(default="")
    subnets: Mapped[list[Subnet]] = relationship(order_by="Subnet.id", viewonly=True)


class Subnet(Standard, Base):
    __tablename__ = "subnets"

    network_id: Mapped[str] = mapped_column(ForeignKey("networks.id"), index=True)
    ip_version: Mapped[int]
    cidr: Mapped[str]
    gateway_ip: Mapped[str | None]
    enable_dhcp: Mapped[bool] = mapped_column(default=True)
    dns_nameservers: Mapped[list] = mapped_column(default=list)
    host_routes: Mapped[list] = mapped_column(default=list)  # [{destination, nexthop}]
    allocation_pools: Mapped[list] = mapped_column(default=list)  # [{start, end}]
    ipv6_ra_mode: Mapped[str | None]
    ipv6_address_mode: Mapped[str | None]


class Port(Standard, Base):
    __tablename__ = "ports"

    network_id: Mapped[str] = mapped_column(ForeignKey("networks.id"), index=True)
    mac_address: Mapped[str]
    admin_state_up: Mapped[bool] = mapped_column(default=True)
    device_id: Mapped[str] = mapped_column(default="", index=True)
    device_owner: Mapped[str] = mapped_column(default="")
    device_index: Mapped[int] = mapped_column(default=0)  # order of a server's NICs
    host_id: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"), index=True)
    delete_with_device: Mapped[bool] = mapped_column(default=False)  # compute made it
    device_tag: Mapped[str | None]  # of the server's interface, as its user gave it
    detached_at: Mapped[datetime | None]  # the tombstone of its use by a server: it is to go out of the guest
    port_security_enabled: Mapped[bool] = mapped_column(default=True)
    allowed_address_pairs: Mapped[list] = mapped_column(default=list)  # [{ip_address, mac_address}], both set
    extra_dhcp_opts: Mapped[list] = mapped_column(default=list)  # [{opt_name, opt_value, ip_version}]
    dns_name: Mapped[str] = mapped_column(default="")
    vnic_type: Mapped[str] = mapped_column(default="normal")
    observed_state: Mapped[str | None]  # active | down
    addresses: Mapped[list[Address]] = relationship(
        order_by="Address.id", cascade="all, delete-orphan", passive_deletes=True
    )
    security_groups: Mapped[list[SecurityGroup]] = relationship(
        secondary="port_security_groups", order_by="SecurityGroup.id"
    )

    __table_args__ = (UniqueConstraint("network_id", "mac_address"),)


class Address(Base):
    """One fixed address of a port."""

    __tablename__ = "addresses"
    __table_args__ = (UniqueConstraint("subnet_id", "address"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    port_id: Mapped[str] = mapped_column(ForeignKey("ports.id", ondelete="CASCADE"), index=True)
    subnet_id: Mapped[str] = mapped_column(ForeignKey("subnets.id"))
    address: Mapped[str]


class Router(Standard, Base):
    __tablename__ = "routers"

    admin_state_up: Mapped[bool] = mapped_column(default=True)
    gateway_network_id: Mapped[str | None] = mapped_column(ForeignKey("networks.id"))
    enable_snat: Mapped[bool] = mapped_column(default=True)
    routes: Mapped[list] = mapped_column(default=list)  # [{destination, nexthop}]
    observed_state: Mapped[str | None]


class FloatingIP(Standard, Base):
    __tablename__ = "floating_ips"
    __table_args__ = (UniqueConstraint("port_id", "fixed_address"),)

    network_id: Mapped[str] = mapped_column(ForeignKey("networks.id"))
    own_port_id: Mapped[str] = mapped_column(ForeignKey("ports.id"))  # holds the address (network:floatingip)
    address: Mapped[str]
    port_id: Mapped[str | None] = mapped_column(ForeignKey("ports.id"))
    fixed_address: Mapped[str | None]
    router_id: Mapped[str | None] = mapped_column(ForeignKey("routers.id"))
    observed_state: Mapped[str | None]


class SecurityGroup(Standard, Base):
    __tablename__ = "security_groups"

    stateful: Mapped[bool] = mapped_column(default=True)
    default_for: Mapped[str | None] = mapped_column(unique=True)  # the project whose default group it is
    rules: Mapped[list[SecurityGroupRule]] = relationship(
        order_by="SecurityGroupRule.id",
        cascade="all, delete-orphan",
        passive_deletes=True,
        foreign_keys="SecurityGroupRule.security_group_id",
    )


class SecurityGroupRule(Standard, Base):
    __tablename__ = "security_group_rules"

    security_group_id: Mapped[str] = mapped_column(ForeignKey("security_groups.id", ondelete="CASCADE"), index=True)
    direction: Mapped[str]  # ingress | egress
    ethertype: Mapped[str] = mapped_column(default="IPv4")
    protocol: Mapped[str | None]
    port_range_min: Mapped[int | None]
    port_range_max: Mapped[int | None]
    remote_ip_prefix: Mapped[str | None]
    remote_group_id: Mapped[str | None] = mapped_column(ForeignKey("security_groups.id", ondelete="CASCADE"))


class PortSecurityGroup(Base):
    __tablename__ = "port_security_groups"

    port_id: Mapped[str] = mapped_column(ForeignKey("ports.id", ondelete="CASCADE"), primary_key=True)
    security_group_id: Mapped[str] = mapped_column(ForeignKey("security_groups.id"), primary_key=True, index=True)
