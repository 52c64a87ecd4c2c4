"""Microversions: what a client asks for, what is served, and the headers that say so.

Source: the microversion specification of the OpenStack API SIG. Fields know since and until when
they exist (`fields.py`); handlers never see a version.
"""

from __future__ import annotations

import re

from .errors import BadRequest, NotAcceptable

Version = tuple[int, int]

# What is advertised: only versions whose behaviour is implemented and tested.
FOREVER: Version = (999, 0)
MINIMUM = {"compute": (2, 1), "volume": (3, 0)}
MAXIMUM = {"compute": (2, 96), "volume": (3, 44)}
LEGACY_HEADER = {"compute": "X-OpenStack-Nova-API-Version"}


def parse_version(text: str) -> Version:
    """(2, 15) of "2.15"; BadRequest where the text is no version."""
    match = re.fullmatch(r"([1-9]\d{0,3})\.(0|[1-9]\d{0,3})", text)
    if not match:
        raise BadRequest(f"API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum.")
    return int(match[1]), int(match[2])


def show_version(version: Version) -> str:
    """ "2.15" of (2, 15)."""
    return f"{version[0]}.{version[1]}"


def choose_version(service: str, headers) -> Version | None:
    """The version this request is served at; None for a service without microversions.

    ``OpenStack-API-Version: compute 2.15`` counts first, then the service's older header of its own;
    neither is the minimum, ``latest`` the maximum. NotAcceptable outside what is served.
    """
    if service not in MINIMUM:
        return None
    text = ""
    for part in headers.get("OpenStack-API-Version", "").split(","):
        words = part.split()
        if len(words) == 2 and words[0].lower() == service:
            text = words[1]
    text = text or headers.get(LEGACY_HEADER.get(service, ""), "").strip()
    if not text:
        return MINIMUM[service]
    if text == "latest":
        return MAXIMUM[service]
    version = parse_version(text)
    if not MINIMUM[service] <= version <= MAXIMUM[service]:
        lowest, highest = show_version(MINIMUM[service]), show_version(MAXIMUM[service])
        raise NotAcceptable(
            f"Version {text} is not supported by the API. Minimum is {lowest} and maximum is {highest}."
        )
    return version


def build_version_headers(service: str, version: Version | None) -> dict[str, str]:
    """The headers that name the version served."""
    if version is None:
        return {}
    text = show_version(version)
    headers = {"OpenStack-API-Version": f"{service} {text}", "Vary": "OpenStack-API-Version"}
    if service in LEGACY_HEADER:
        headers[LEGACY_HEADER[service]] = text
        headers["Vary"] += f", {LEGACY_HEADER[service]}"
    return headers
