"""Memory and CPUs that this process may use; in a container they are less than the machine's (floor 0).

Linux limits memory and CPU time by control groups, version 1 or 2. All limits of a process's group and of its visible
parent groups apply.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
UNKNOWN_BYTES = 8 * 2**30  # assumed free memory, if the system does not report it
MEMORY_FILES = (  # limit, usage, and the reclaimable part of the usage
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def keep_freed_memory() -> None:
    """From now on, memory that this process frees stays with it. A training frees and takes gigabytes in each step; the
    system would clear every page anew. Only where the C library is glibc."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is not None and hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def free_bytes(root: Path = ROOT) -> int:
    """Bytes that this process can still allocate. root: the folder of /proc and /sys."""
    free = _field(root / "proc/meminfo", "MemAvailable:")
    known = [free * 1024] if free is not None else []
    for group in _groups(root, "memory"):
        for limit_name, used_name, reclaimable in MEMORY_FILES:
            limit, used = _number(group / limit_name), _number(group / used_name)
            if limit is not None and used is not None:
                known.append(limit - used + (_field(group / "memory.stat", reclaimable) or 0))
    return max(min(known, default=UNKNOWN_BYTES), 0)


def num_cpus(root: Path = ROOT) -> int:
    """CPUs that this process may use: 1 or more. root: the folder of /proc and /sys."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares: list[float] = [allowed]
    for group in _groups(root, "cpu"):
        words = _read(group / "cpu.max").split()
        quota, period = (
            words if len(words) == 2 else (_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        )
        if quota.strip().isdecimal() and period.strip().isdecimal():  # neither "max" nor -1, which mean no limit
            shares.append(int(quota) / int(period))
    return max(int(min(shares)), 1)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's group and of its parents, for this controller."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = _mount(root, controller if controllers else "")
        if mount is None:
            continue
        shown, top = mount  # in a container, the mounted root is its own group
        inside = PurePosixPath(path)
        group = top / inside.relative_to(shown) if inside.is_relative_to(shown) and ".." not in inside.parts else top
        yield group
        while group != top:
            group = group.parent
            yield group


def _mount(root: Path, controller: str) -> tuple[str, Path] | None:
    """The root group of a hierarchy and its mount point. controller: empty for version 2."""
    kind = "cgroup" if controller else "cgroup2"
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        words = right.split(" ")
        if words[0] == kind and (not controller or controller in words[-1].split(",")):
            shown, folder = left.split(" ")[3:5]
            return shown, root / folder.lstrip("/")
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _field(path: Path, name: str) -> int | None:
    """The number after a name at the beginning of a line."""
    lines = (line.split() for line in _read(path).splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [name]), None)
