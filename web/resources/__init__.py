"""The APIs: one folder a service, one file a resource with ROUTES, FIELDS, handlers and view.

SERVICES is all that exists; `web/app.py` serves any subset. Handlers may import models, the scheduler
and `reconcile.status` (both pure), never Flask, Ansible or each other's services' handlers.
"""

from .admin import SERVICE as ADMIN
from .compute import SERVICE as COMPUTE
from .identity import SERVICE as IDENTITY
from .image import SERVICE as IMAGE
from .network import SERVICE as NETWORK
from .volume import SERVICE as VOLUME

SERVICES = [IDENTITY, COMPUTE, IMAGE, NETWORK, VOLUME, ADMIN]
