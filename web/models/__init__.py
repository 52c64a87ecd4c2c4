"""Every model: wanted and observed columns side by side. Imports nothing of `web` outside this folder."""

from .base import Base, Database, is_gone, new_hex_id, new_uuid, now
from .catalog import CatalogService, Endpoint, EndpointGroup, ProjectEndpoint, ProjectEndpointGroup, Region
from .console_tokens import ConsoleToken
from .credentials import Credential
from .delegations import AccessRule, AppCredential, Trust
from .host_images import HostImage
from .hosts import Aggregate, AggregateHost, Host, HostRequest, RequestLog, Run, mark_due, touch
from .idempotency import IdempotentAnswer
from .identity import (
    Assignment,
    Domain,
    DomainOption,
    Group,
    Implication,
    LoginFailure,
    Membership,
    Project,
    RevokedToken,
    Role,
    User,
)
from .image_tasks import ImageTask
from .images import Image, ImageMember
from .metadefs import (
    MetadefAssociation,
    MetadefNamespace,
    MetadefObject,
    MetadefProperty,
    MetadefResourceType,
    MetadefTag,
)
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
from .policies import PolicyBlob
from .quotas import DefaultQuota, Quota, UserQuota, read_limit
from .server_groups import ServerGroup, ServerGroupMember
from .server_images import ServerImage
from .servers import (
    ConsoleLog,
    Flavor,
    FlavorAccess,
    Keypair,
    Server,
    ServerAction,
    ServerDiagnostics,
    finish_actions,
)
from .volumes import Snapshot, Volume, VolumeAttachment, VolumeType, VolumeTypeAccess
from .workers import WorkerProcess

__all__ = [
    "AccessRule",
    "Address",
    "Aggregate",
    "AggregateHost",
    "AppCredential",
    "Assignment",
    "Base",
    "CatalogService",
    "ConsoleLog",
    "ConsoleToken",
    "Credential",
    "Database",
    "DefaultQuota",
    "Domain",
    "DomainOption",
    "Endpoint",
    "EndpointGroup",
    "Flavor",
    "FlavorAccess",
    "FloatingIP",
    "Group",
    "Host",
    "HostImage",
    "HostRequest",
    "IdempotentAnswer",
    "Image",
    "ImageMember",
    "ImageTask",
    "Implication",
    "Keypair",
    "LoginFailure",
    "Membership",
    "MetadefAssociation",
    "MetadefNamespace",
    "MetadefObject",
    "MetadefProperty",
    "MetadefResourceType",
    "MetadefTag",
    "Migration",
    "Network",
    "PolicyBlob",
    "Port",
    "PortSecurityGroup",
    "Project",
    "ProjectEndpoint",
    "ProjectEndpointGroup",
    "Quota",
    "Region",
    "RequestLog",
    "RevokedToken",
    "Role",
    "Router",
    "Run",
    "SecurityGroup",
    "SecurityGroupRule",
    "Server",
    "ServerAction",
    "ServerDiagnostics",
    "ServerGroup",
    "ServerGroupMember",
    "ServerImage",
    "Snapshot",
    "Subnet",
    "Trust",
    "User",
    "UserQuota",
    "Volume",
    "VolumeAttachment",
    "VolumeType",
    "VolumeTypeAccess",
    "WorkerProcess",
    "finish_actions",
    "is_gone",
    "mark_due",
    "new_hex_id",
    "new_uuid",
    "now",
    "read_limit",
    "touch",
]
