"""What a guest is told of itself, in OpenStack's form and EC2's: the metadata service and config drives alike. Pure.

``content`` is {metadata, network_data, local_ipv4, posted_password} (``metadata.py`` builds it; the last is the
service's alone). The daemon ``kumo_metadata.py`` is installed with a copy of this file beside it: Python's standard
library only, and nothing of this package.
"""

import base64
import json
import os

EC2_VERSIONS = [
    *("1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10"),
    *("2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04"),
]
# Nova's names and dates of the OpenStack format, and what each brought.
OPENSTACK_VERSIONS = [
    *("2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30"),
    *("2016-10-06", "2017-02-22", "2018-08-27", "2020-10-14"),
]
RANDOM_SEED_SINCE = "2013-04-04"
PROJECT_SINCE = VENDOR_SINCE = "2013-10-17"
KEYS_SINCE = NETWORK_SINCE = "2015-10-15"
DEVICES_SINCE = "2016-06-30"
PASSWORD_SINCE = "2013-04-04"
PASSWORD_BYTES = 1020  # the reference's four pieces of 255
PASSWORD_FILE = "posted_password."  # beside a server's disk; then the number of times that it was cleared
VENDOR2_SINCE = "2016-10-06"


class NotThere(Exception):
    """The path names nothing of this guest."""


def build_openstack(content, parts):
    """The body (str or bytes) of ``/openstack/<parts…>`` for a guest; NotThere for anything else."""
    if not parts:
        return "\n".join([*OPENSTACK_VERSIONS, "latest"])
    version = OPENSTACK_VERSIONS[-1] if parts[0] == "latest" else parts[0]
    if version not in OPENSTACK_VERSIONS or len(parts) > 2:
        raise NotThere
    documents = {"meta_data.json": build_meta_data}
    if content["metadata"].get("user_data"):
        documents["user_data"] = lambda content, _: decode_user_data(content)
    if version >= PASSWORD_SINCE and "posted_password" in content:
        documents["password"] = lambda content, _: content["posted_password"]["text"]
    if version >= VENDOR_SINCE:
        documents["vendor_data.json"] = lambda *_: "{}"
    if version >= VENDOR2_SINCE:
        documents["vendor_data2.json"] = lambda *_: "{}"
    if version >= NETWORK_SINCE:
        documents["network_data.json"] = lambda content, _: json.dumps(content["network_data"])
    if len(parts) == 1:
        return "\n".join(sorted(documents))
    if parts[1] not in documents:
        raise NotThere
    return documents[parts[1]](content, version)


def decode_user_data(content):
    """The server's user data as it was given, in bytes."""
    text = content["metadata"].get("user_data")
    if not text:
        raise NotThere
    return base64.b64decode(text)


def build_meta_data(content, version):
    """OpenStack's meta_data.json at a version of the format."""
    facts = content["metadata"]
    keys = facts.get("keys") or []
    data = {
        "uuid": facts["uuid"],
        "name": facts.get("name", ""),
        "hostname": facts.get("hostname", ""),
        "launch_index": facts.get("launch_index", 0),
        "availability_zone": facts.get("availability_zone", ""),
    }
    if facts.get("meta"):
        data["meta"] = facts["meta"]
    if keys:
        data["public_keys"] = {key["name"]: key["data"] for key in keys}
    if version >= RANDOM_SEED_SINCE:
        data["random_seed"] = base64.b64encode(os.urandom(512)).decode()
    if version >= PROJECT_SINCE:
        data["project_id"] = facts.get("project_id", "")
    if version >= KEYS_SINCE and keys:
        data["keys"] = [{"name": key["name"], "type": key.get("type", "ssh"), "data": key["data"]} for key in keys]
    if version >= DEVICES_SINCE:
        data["devices"] = facts.get("devices") or []
    # A config drive alone holds these: the content of the service never has them.
    if content.get("files"):
        data["files"] = content["files"]
    if content.get("admin_pass"):
        data["admin_pass"] = content["admin_pass"]
    return json.dumps(data)


def build_ec2_tree(content):
    """EC2's ``meta-data`` as a tree: a dict is a directory, a string a value."""
    facts = content["metadata"]
    tree = {
        "ami-id": facts.get("image_ec2_id") or "",
        "ami-launch-index": str(facts.get("launch_index", 0)),
        "ami-manifest-path": "(unknown)",
        "block-device-mapping": facts.get("block_devices") or {"ami": "vda", "root": "/dev/vda"},
        "hostname": facts.get("hostname", ""),
        "instance-action": "none",
        "instance-id": facts.get("ec2_id") or facts["uuid"],
        "instance-type": facts.get("instance_type") or "",
        "local-hostname": facts.get("hostname", ""),
        "local-ipv4": content.get("local_ipv4") or "",
        "placement": {"availability-zone": facts.get("availability_zone", "")},
        "public-hostname": facts.get("hostname", ""),
        "public-ipv4": facts.get("public_ipv4") or "",
        "reservation-id": facts.get("reservation_id") or "r-" + facts["uuid"].replace("-", "")[:8],
        "security-groups": "\n".join(facts.get("security_groups") or []),
    }
    keys = facts.get("keys") or []
    if keys:
        tree["public-keys"] = {
            str(index): {"": key["name"], "openssh-key": key["data"].strip() + "\n"} for index, key in enumerate(keys)
        }
    return tree


def build_ec2(content, parts):
    """The body of ``/<EC2 version>/<parts…>`` for a guest; NotThere for anything else."""
    if not parts:
        return "\n".join(["meta-data/", *(["user-data"] if content["metadata"].get("user_data") else [])])
    if parts == ["user-data"]:
        return decode_user_data(content)
    if parts[0] != "meta-data":
        raise NotThere
    node = build_ec2_tree(content)
    for part in parts[1:]:
        if not isinstance(node, dict) or not part or part not in node:
            raise NotThere
        node = node[part]
    if not isinstance(node, dict):
        return node
    lines = []
    for name, below in sorted(node.items()):
        if isinstance(below, dict) and "" in below:
            lines.append(f"{name}={below['']}")  # EC2 lists keys by number and name
        elif name:
            lines.append(f"{name}/" if isinstance(below, dict) else name)
    return "\n".join(lines)


def is_password(path):
    """Whether a path is that of the password that the guest itself has posted, or may post."""
    parts = [part for part in path.split("?", 1)[0].split("/") if part]
    if len(parts) != 3 or parts[0] != "openstack" or parts[2] != "password":
        return False
    return parts[1] == "latest" or (parts[1] in OPENSTACK_VERSIONS and parts[1] >= PASSWORD_SINCE)


def parse_password(raw):
    """The text of a password that a guest posts; ValueError says what is wrong with it."""
    if not 1 <= len(raw) <= PASSWORD_BYTES:
        raise ValueError(f"a password of 1 to {PASSWORD_BYTES} bytes can be posted")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if any(ord(one) < 32 and one not in "\t\r\n" for one in text) or not text.strip():
        raise ValueError("the password must be text")
    return text


def build_answer(content, path):
    """The body for a path of the service; NotThere where it names nothing."""
    parts = [part for part in path.split("?", 1)[0].split("/") if part]
    if not parts:
        return "\n".join([*EC2_VERSIONS, "latest"])
    if parts[0] == "openstack":
        return build_openstack(content, parts[1:])
    if parts[0] in EC2_VERSIONS or parts[0] == "latest":
        return build_ec2(content, parts[1:])
    raise NotThere
