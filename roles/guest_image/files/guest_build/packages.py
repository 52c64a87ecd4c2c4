"""Debian packages as the image's raw material.

Owns: which packages the image is made of, resolving them to exact versions with the machine's own apt,
fetching and unpacking them into a directory. May not: install anything on this machine or change apt's
state. Next room: kernel_modules.py and root_tree.py pick files out of what is unpacked here.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
# What ends up in the guest.
GUEST_PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "openssh-sftp-server",
    "sudo",
    "util-linux",
    "e2fsprogs",
    # Shared libraries of the above.
    "libc6",
    "libaudit1",
    "libblkid1",
    "libcap-ng0",
    "libcom-err2",
    "libcrypt1",
    "libext2fs2",
    "libgmp10",
    "libmount1",
    "libpam-modules",
    "libpam0g",
    "libpcre2-8-0",
    "libselinux1",
    "libsmartcols1",
    "libtomcrypt1",
    "libtommath1",
    "libudev1",
    "libuuid1",
    "zlib1g",
)
# What only the build uses, run from where it was unpacked.
TOOL_PACKAGES = ("dosfstools", "mtools", "syslinux", "syslinux-common")


class BuildError(Exception):
    """The image cannot be built; the text says why and what to do."""


@dataclass(frozen=True)
class Package:
    """One exact package file: `filename` as apt saves it, `sha256` in hex as the signed lists have it."""

    name: str
    filename: str
    sha256: str


def run(arguments: list[str], **options: object) -> str:
    """Run a command and return its standard output (text); BuildError with its last words if it fails."""
    try:
        done = subprocess.run(
            [str(argument) for argument in arguments], capture_output=True, text=True, timeout=300, **options
        )
    except FileNotFoundError as error:
        raise BuildError(f"the command {arguments[0]} is missing on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{' '.join(map(str, arguments[:3]))} … did not end within 300 s") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-800:]
        raise BuildError(f"{' '.join(map(str, arguments[:4]))} … failed with status {done.returncode}: {words}")
    return done.stdout


def parse_kernel_dependency(text: str) -> str:
    """The real kernel package in the output of `apt-cache depends linux-image-cloud-amd64`."""
    found = re.search(r"^\s*Depends: (linux-image-\d\S*-cloud-amd64)$", text, re.MULTILINE)
    if not found:
        raise BuildError(f"apt names no kernel for {KERNEL_METAPACKAGE}: run apt-get update")
    return found.group(1)


def parse_print_uris(text: str) -> list[Package]:
    """The packages in the output of `apt-get download --print-uris`: 'URI' FILENAME SIZE SHA256:HEX."""
    packages = []
    for line in text.splitlines():
        found = re.fullmatch(r"'\S+' ((\S+?)_\S+\.deb) \d+ SHA256:([0-9a-f]{64})", line.strip())
        if found:
            packages.append(Package(found.group(2), found.group(1), found.group(3)))
    return sorted(packages, key=lambda package: package.name)


def read_packages() -> list[Package]:
    """Resolve every wanted package to the version this machine's apt would download, sorted by name."""
    kernel = parse_kernel_dependency(run(["apt-cache", "depends", KERNEL_METAPACKAGE]))
    names = sorted({kernel, *GUEST_PACKAGES, *TOOL_PACKAGES})
    packages = parse_print_uris(run(["apt-get", "download", "--print-uris", *[f"{name}:amd64" for name in names]]))
    missing = set(names) - {package.name for package in packages}
    # An architecture-independent package answers to its name without one.
    if missing:
        packages += parse_print_uris(run(["apt-get", "download", "--print-uris", *sorted(missing)]))
        missing = set(names) - {package.name for package in packages}
    if missing:
        raise BuildError(f"apt cannot download {', '.join(sorted(missing))}: run apt-get update")
    return sorted(packages, key=lambda package: package.name)


def read_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def apply_download(packages: list[Package], store: Path) -> None:
    """Fetch what `store` does not hold yet; every file's checksum is compared with the signed lists."""
    store.mkdir(parents=True, exist_ok=True)
    wanted = [package for package in packages if not is_held(package, store)]
    if wanted:
        names = [package.name for package in wanted]
        # As root, apt would fetch as the user _apt, who may not write here; without root the option is moot.
        run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names], cwd=store)
    for package in wanted:
        if not is_held(package, store):
            raise BuildError(f"{package.filename} was not downloaded as listed: run apt-get update and try again")


def is_held(package: Package, store: Path) -> bool:
    path = store / package.filename
    return path.is_file() and read_sha256(path) == package.sha256


def apply_unpack(packages: list[Package], store: Path, directory: Path) -> None:
    """Unpack packages over each other into `directory`, without running anything of theirs."""
    directory.mkdir(parents=True, exist_ok=True)
    for package in packages:
        run(["dpkg-deb", "-x", str(store / package.filename), str(directory)])
