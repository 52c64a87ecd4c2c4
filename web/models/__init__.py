"""Every model: wanted and observed columns side by side. Imports nothing of `web` outside this folder."""

from .base import Base, Database, is_gone, new_hex_id, new_uuid, now
from .host_images import HostImage
from .hosts import Aggregate, AggregateHost, Host, HostRequest, RequestLog, Run, mark_due, touch
from .idempotency import IdempotentAnswer
from .identity import Assignment, Domain, LoginFailure, Project, RevokedToken, Role, User
from .image_tasks import ImageTask
from .images import Image, ImageMember
from .migrations import Migration
from .networks import (
    Address,
    FloatingIP,
    Network,
    Port,
    PortSecurityGroup,
    Router,
    SecurityGroup,
    SecurityGroupRule,
    Subnet,
)
from .quotas import Quota, read_limit
from .servers import ConsoleLog, Flavor, FlavorAccess, Keypair, Server, ServerAction, finish_actions
from .volumes import Snapshot, Volume, VolumeAttachment, VolumeType, VolumeTypeAccess

__all__ = [
    "Address",
    "Aggregate",
    "AggregateHost",
    "Assignment",
    "Base",
    "ConsoleLog",
    "Database",
    "Domain",
    "Flavor",
    "FlavorAccess",
    "FloatingIP",
    "Host",
    "HostImage",
    "HostRequest",
    "IdempotentAnswer",
    "Image",
    "ImageMember",
    "ImageTask",
    "Keypair",
    "LoginFailure",
    "Migration",
    "Network",
    "Port",
    "PortSecurityGroup",
    "Project",
    "Quota",
    "RequestLog",
    "RevokedToken",
    "Role",
    "Router",
    "Run",
    "SecurityGroup",
    "SecurityGroupRule",
    "Server",
    "ServerAction",
    "Snapshot",
    "Subnet",
    "User",
    "Volume",
    "VolumeAttachment",
    "VolumeType",
    "VolumeTypeAccess",
    "finish_actions",
    "is_gone",
    "mark_due",
    "new_hex_id",
    "new_uuid",
    "now",
    "read_limit",
    "touch",
]
