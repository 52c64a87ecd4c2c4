#!/usr/bin/python3 -I
"""kumo-root: all that the account kumo may have done as root on a host, by one line of sudoers.

    kumo-root apply|check [--sections=A,B] <request     kumo-root probe

A request is JSON, {"files": {file of module_utils/kumo: SHA-256}, "document": …}; the answer is JSON,
{"result": …} or {"failed": sentence}. What is not in the allow-list (POLICY_DIRECTORY) is refused with exit
status 77 and one line in the log, which never holds anything of a document but what was refused of it.
The code beside this file is root's. Next rooms: `policy.py` (the allow-list), `schema.py` (the document's form).
"""

import json
import os
import re
import signal
import stat
import sys
import syslog
import time

HOME = "/usr/local/lib/kumo/root"
POLICY_DIRECTORY = "/etc/kumo/root.d"
LOG = "/var/log/kumo/root.log"
LOG_BYTES = 4 << 20
REQUEST_BYTES = 32 << 20
REQUEST_S = 60
REFUSED = 77
SECTIONS = re.compile(r"--sections=([a-z]{1,20}(?:,[a-z]{1,20}){0,20})")
PREPARE = "run `kumo host prepare` for this host"


class Refused(Exception):
    """What is asked for is not in the allow-list: the sentence says what and why."""


def record(sentence: str) -> None:
    """One line in the system's log and in LOG, whatever the sentence holds."""
    line = sentence.encode("ascii", "backslashreplace").decode()
    line = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)[:500]
    caller = f"{os.environ.get('SUDO_USER', 'root')}({os.environ.get('SUDO_UID', os.getuid())})"
    syslog.openlog("kumo-root", syslog.LOG_PID, syslog.LOG_AUTHPRIV)
    syslog.syslog(syslog.LOG_NOTICE, f"{caller} {line}")
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(LOG, flags, 0o600)
    except OSError:
        return  # the system's log has it
    try:
        seen = os.fstat(descriptor)
        # Where the account may write to the directory, it must not choose what root writes to.
        if stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid() and seen.st_nlink == 1:
            if seen.st_size > LOG_BYTES:
                os.replace(LOG, f"{LOG}.1")
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            os.write(descriptor, f"{moment} {caller} {line}\n".encode())
    finally:
        os.close(descriptor)


def parse_words(words: list, commands: dict) -> tuple:
    """(command, its sections or None) of the command line; Refused for any other word."""
    if not words:
        raise Refused("no command")
    command, *others = words
    if command not in commands:
        raise Refused(f"command {command!r} is not allowed")
    if not others:
        return command, None
    match = SECTIONS.fullmatch(others[0])
    if command == "probe" or len(others) > 1 or not match:
        raise Refused(f"{command}: arguments {' '.join(others)!r} are not allowed")
    sections = match[1].split(",")
    unknown = [name for name in sections if name not in commands[command]]
    if unknown:
        raise Refused(f"{command}: section {unknown[0]!r} is not allowed")
    return command, sections


def read_request(descriptor: int) -> dict:
    """The request on standard input, bounded in bytes and in time."""

    def end(signum, frame):
        raise Refused(f"the request did not end within {REQUEST_S} s")

    signal.signal(signal.SIGALRM, end)
    signal.alarm(REQUEST_S)
    data = bytearray()
    while piece := os.read(descriptor, 1 << 20):
        data += piece
        if len(data) > REQUEST_BYTES:
            raise Refused(f"the request is longer than {REQUEST_BYTES} bytes")
    signal.alarm(0)
    try:
        request = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(f"the request ({len(data)} bytes) is not JSON") from None
    if not isinstance(request, dict) or set(request) != {"files", "document"} or not isinstance(request["files"], dict):
        raise Refused("the request is not {files, document}")
    return request


def check_revision(files: dict, manifest: dict) -> None:
    """The caller's module and this helper must be of the same source: KumoError else, for it is no attack."""
    from kumo.errors import KumoError

    if not files or any(manifest.get(name) != digest for name, digest in files.items()):
        raise KumoError(f"this host's Kumo modules are of another revision; {PREPARE}")


def answer(words: list, output: int) -> dict:
    """What was asked for, if it is allowed; for as long as somebody is there to read it from ``output``."""
    sys.path.insert(0, HOME)
    import policy
    import schema

    try:
        allowed = policy.read_policy(POLICY_DIRECTORY)
        command, sections = parse_words(words, allowed["commands"])
        if command == "probe":
            return probe(policy, allowed)
        request = read_request(0)
        with open(f"{HOME}/manifest.json", encoding="ascii") as stream:
            check_revision(request["files"], json.load(stream))
        with open(f"{HOME}/document.json", encoding="utf-8") as stream:
            schema.check(request["document"], json.load(stream), "document")
        policy.check_document(request["document"], allowed)
    except (policy.PolicyError, schema.SchemaError) as error:
        raise Refused(str(error)) from None
    from kumo import caller, core, image_fetch

    image_fetch.ALLOWED = tuple(allowed["image_dirs"])
    record(f"{command} {','.join(sections or ['all'])} generation {request['document'].get('generation', 0)}")
    chosen = [name for name in core.SECTIONS if name in (sections or allowed["commands"][command])]
    with caller.watching(output, lambda: record(f"{command} ended: its caller has gone")):
        return core.run_sections(request["document"], chosen, check_mode=command == "check")


def probe(policy, allowed: dict) -> dict:
    """Whether guests run under KVM here; kept in the first state directory of the allow-list."""
    from kumo import core
    from kumo import probe as prober

    directory = allowed["state_dirs"][0]
    policy.check_directory(directory, "state_dir")
    document = core.parse_document({"version": core.DOCUMENT_VERSION, "settings": {"state_dir": directory}})
    return prober.read_answer(document) or prober.apply_probe(document)


def main() -> int:
    """Answer on standard output, which nothing else gets to write to."""
    if os.geteuid() or not sys.flags.isolated:
        print("kumo-root: start me as root, as `sudo kumo-root`, by my own first line", file=sys.stderr)
        return REFUSED
    kept = {name: os.environ[name] for name in ("SUDO_USER", "SUDO_UID") if name in os.environ}
    os.environ.clear()
    os.environ.update(kept, PATH="/usr/sbin:/usr/bin:/sbin:/bin", LANG="C.UTF-8", HOME="/root")
    os.umask(0o022)
    os.chdir("/")
    output = os.dup(1)
    os.dup2(2, 1)
    status = 0
    try:
        told = {"result": answer(sys.argv[1:], output)}
    except Refused as error:
        record(f"refused: {error}")
        told, status = {"failed": f"this host's allow-list refuses it: {error}"}, REFUSED
    except Exception as error:
        if type(error).__name__ == "KumoError":
            told, status = {"failed": str(error)}, 1
        else:
            place = error.__traceback__
            while place.tb_next:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_name} line {place.tb_lineno}"
            record(f"unexpected {type(error).__name__} in {where}")
            told, status = {"failed": f"unexpected {type(error).__name__} in {where}: {error}"}, 1
    with os.fdopen(output, "w", encoding="utf-8") as stream:
        json.dump(told, stream)
    return status


if __name__ == "__main__":
    sys.exit(main())
