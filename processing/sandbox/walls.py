"""The walls around a child that works on untrusted bytes: limits, namespaces, Landlock. Standard library only."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
EXECUTE, READ_FILE, READ_DIR = 1, 4, 8
READ = EXECUTE | READ_FILE | READ_DIR
FILE_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}
"""All rights on files that a version of Landlock knows."""
NET_RIGHTS, NET_VERSION = 3, 4  # bind and connect by TCP
SCOPES, SCOPES_VERSION = 3, 6  # abstract sockets and signals
MOST_PROCESSES = 64  # threads count too
NICENESS = 10
LIMITS = {
    "memory": resource.RLIMIT_AS,
    "cpu": resource.RLIMIT_CPU,
    "file": resource.RLIMIT_FSIZE,
    "files": resource.RLIMIT_NOFILE,
}
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/opt/venv", "/venv")

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def limit(limits: Mapping[str, int]) -> None:
    """Set this process's own limits: bytes of `memory` and `file`, seconds of `cpu`, number of `files`.

    Source: https://man7.org/linux/man-pages/man2/getrlimit.2.html
    """
    for name, kind in LIMITS.items():
        most = resource.getrlimit(kind)[1]
        # At the first limit of computing comes a signal that says so, at the second only the end.
        last = limits[name] + 1 if name == "cpu" else limits[name]
        last = last if most == resource.RLIM_INFINITY else min(last, most)
        resource.setrlimit(kind, (min(limits[name], last), last))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        os.nice(NICENESS)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent is gone, and never let it gain rights."""
    with suppress(AttributeError):  # not on Linux
        _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def leave_network() -> bool:
    """Go on in namespaces of its own: no network, and no other process to see.

    This process stays behind and waits for the one that goes on. Where that one dies, the kernel kills all that it
    has started.

    Returns:
        False if the kernel does not let it, as in a container without the right to.

    Source: https://man7.org/linux/man-pages/man7/user_namespaces.7.html, pid_namespaces.7.html
    """
    if not _unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC):
        return False
    inner = os.fork()
    if inner:
        status = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
        os._exit(status if status >= 0 else 128 - status)
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))
    return True


def _unshare(flags: int) -> bool:
    try:
        return _libc.unshare(flags) == 0  # type: ignore[no-any-return]
    except AttributeError:  # not on Linux
        return False


def close_files(writable: Path) -> bool:
    """Let this process read only the interpreter and its libraries, write only one folder, and use no TCP.

    Returns:
        False if the kernel has no Landlock.

    Source: https://docs.kernel.org/userspace-api/landlock.html
    """
    version = _landlock_version()
    if version < 1:
        return False
    files = FILE_RIGHTS[max(known for known in FILE_RIGHTS if known <= version)]
    net = NET_RIGHTS if version >= NET_VERSION else 0
    scoped = SCOPES if version >= SCOPES_VERSION else 0
    size = 24 if scoped else 16 if net else 8
    ruleset = _libc.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(_Ruleset(files, net, scoped)), size, 0)
    if ruleset < 0:
        return False
    for folder in _readable():
        _allow(ruleset, folder, READ)
    _allow(ruleset, writable, files & ~EXECUTE)
    return _libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0  # type: ignore[no-any-return]


def _landlock_version() -> int:
    """Return the version of Landlock that the kernel has; less than 1 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(_libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, CREATE_RULESET_VERSION))


def _readable() -> Iterable[Path]:
    own = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
    return [folder for name in sorted({*own, *SYSTEM_FOLDERS}) if (folder := Path(name)).is_dir()]


def _allow(ruleset: int, folder: Path, rights: int) -> None:
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(rights, descriptor)
        _libc.syscall(LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)
