"""Domain errors, and how each service's API says them: the one place where they meet HTTP.

Handlers raise; nobody else chooses a status code. Next room: `http.py`, which calls `build_error`.
"""

from __future__ import annotations

import html
import json


class Problem(Exception):
    """Something the caller can be told: ``status`` is HTTP's, ``kind`` the class of error for Neutron's ``type``."""

    status = 500
    kind = "ServerFault"

    def __init__(self, message: str, kind: str | None = None, headers: dict | None = None):
        super().__init__(message)
        self.message = message
        self.kind = kind or type(self).kind
        self.headers = headers or {}


class BadRequest(Problem):
    status = 400
    kind = "BadRequest"


class Unauthorized(Problem):
    status = 401
    kind = "Unauthorized"


class Forbidden(Problem):
    status = 403
    kind = "PolicyNotAuthorized"


class NotFound(Problem):
    """``NotFound("server", id)`` reads "server ID could not be found."; a single text is used as it is."""

    status = 404
    kind = "NotFound"

    def __init__(self, what: str, name: object = None, kind: str | None = None):
        super().__init__(what if name is None else f"{what} {name} could not be found.", kind)


class NotAllowed(Problem):
    status = 405
    kind = "MethodNotAllowed"


class NotAcceptable(Problem):
    status = 406
    kind = "NotAcceptable"


class Conflict(Problem):
    status = 409
    kind = "Conflict"


class Gone(Problem):
    status = 410
    kind = "Gone"


class TooLarge(Problem):
    status = 413
    kind = "RequestEntityTooLarge"


class UnsupportedMedia(Problem):
    status = 415
    kind = "UnsupportedMediaType"


class OverQuota(Problem):
    """A limit is reached: 403 in compute, 409 in network, 413 in image."""

    status = 403
    kind = "OverQuota"


class TooMany(Problem):
    status = 429
    kind = "TooManyRequests"


class Unavailable(Problem):
    """The service cannot answer now; the client should come back."""

    status = 503
    kind = "ServiceUnavailable"

    def __init__(self, message: str, retry_after_s: int = 5):
        super().__init__(message, headers={"Retry-After": str(retry_after_s)})


TITLES = {
    300: "Multiple Choices",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    410: "Gone",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
COMPUTE_NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    406: "notAcceptable",
    409: "conflictingRequest",
    410: "gone",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    500: "computeFault",
    501: "notImplemented",
    503: "serviceUnavailable",
}
QUOTA_STATUS = {"network": 409, "image": 413}


def build_error(service: str, problem: Problem, accept: str = "") -> tuple[int, str, str]:
    """(HTTP status, content type, body) of ``problem`` as the API of ``service`` says errors.

    Sources: the "Faults"/"Errors" sections of each service's API reference.
    """
    status = QUOTA_STATUS.get(service, problem.status) if isinstance(problem, OverQuota) else problem.status
    title = TITLES.get(status, "Error")
    if service == "network":
        body = {"NeutronError": {"type": problem.kind, "message": problem.message, "detail": ""}}
    elif service in ("compute", "volume"):
        body = {COMPUTE_NAMES.get(status, "computeFault"): {"code": status, "message": problem.message}}
    elif service == "image":
        if "json" not in accept:
            # A line each: clients that take the tags off show what is left.
            text = html.escape(problem.message, quote=False)
            page = f"<html><head><title>{status} {title}</title></head>\n<body>{text}</body></html>"
            return status, "text/html; charset=UTF-8", page
        body = {"message": problem.message, "code": f"{status} {title}", "title": title}
    else:
        body = {"error": {"code": status, "message": problem.message, "title": title}}
    return status, "application/json", json.dumps(body)
