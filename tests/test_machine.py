"""What a process may use inside a container, read from the files that each version of control groups shows it."""

import os
from pathlib import Path

import pytest

from openjanus import machine
from openjanus.machine import free_bytes, num_cpus

GIB = 2**30
V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup ro,relatime - cgroup2 cgroup ro\n"
V1_MOUNTS = (
    "30 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
    "31 30 0:28 {shown} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "35 30 0:32 {shown} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
)
NO_LIMIT_V1 = 9223372036854771712


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A machine of 64 GiB free memory and 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    write(tmp_path, {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable:   {64 * GIB // 1024} kB\n"})
    return tmp_path


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def test_without_control_groups_the_machine_is_what_there_is(root) -> None:
    assert (free_bytes(root), num_cpus(root)) == (64 * GIB, 16)


def test_a_container_sees_its_own_group_at_the_top(root) -> None:
    """Version 2, as podman and newer dockers show it."""
    write(
        root,
        {
            "proc/self/cgroup": "0::/",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/memory.max": 4 * GIB,
            "sys/fs/cgroup/memory.current": 3 * GIB,
            "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {GIB}",  # of files, which make room when asked
            "sys/fs/cgroup/cpu.max": "250000 100000",
        },
    )
    assert (free_bytes(root), num_cpus(root)) == (2 * GIB, 2)


def test_the_smallest_limit_of_all_groups_above_counts(root) -> None:
    """Version 2, a service of systemd."""
    group = "sys/fs/cgroup/system.slice/janus.service"
    write(
        root,
        {
            "proc/self/cgroup": "0::/system.slice/janus.service",
            "proc/self/mountinfo": V2_MOUNT,
            f"{group}/memory.max": "max",
            f"{group}/memory.current": GIB,
            f"{group}/cpu.max": "max 100000",
            "sys/fs/cgroup/system.slice/memory.max": 8 * GIB,
            "sys/fs/cgroup/system.slice/memory.current": 3 * GIB,
            "sys/fs/cgroup/system.slice/cpu.max": "300000 100000",
        },
    )
    assert (free_bytes(root), num_cpus(root)) == (5 * GIB, 3)


@pytest.mark.parametrize("shown", ["/docker/0123", "/"])
def test_version_1_has_a_folder_for_each_controller(root, shown) -> None:
    """A container that sees the paths of the machine outside, with its own group mounted; and one that sees all."""
    inside = "" if shown != "/" else "/docker/0123"
    write(
        root,
        {
            "proc/self/cgroup": "4:memory:/docker/0123\n2:cpu,cpuacct:/docker/0123\n0::/docker/0123",
            "proc/self/mountinfo": V1_MOUNTS.format(shown=shown),
            f"sys/fs/cgroup/memory{inside}/memory.limit_in_bytes": 2 * GIB,
            f"sys/fs/cgroup/memory{inside}/memory.usage_in_bytes": GIB,
            f"sys/fs/cgroup/memory{inside}/memory.stat": "inactive_file 1\ntotal_inactive_file 4096",
            f"sys/fs/cgroup/cpu,cpuacct{inside}/cpu.cfs_quota_us": 150000,
            f"sys/fs/cgroup/cpu,cpuacct{inside}/cpu.cfs_period_us": 50000,
        },
    )
    assert (free_bytes(root), num_cpus(root)) == (GIB + 4096, 3)


def test_version_1_says_no_limit_by_a_large_number_and_minus_one(root) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "4:memory:/\n2:cpu,cpuacct:/",
            "proc/self/mountinfo": V1_MOUNTS.format(shown="/"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT_V1,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": GIB,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
        },
    )
    assert (free_bytes(root), num_cpus(root)) == (64 * GIB, 16)


def test_a_group_outside_of_what_is_mounted_is_taken_for_the_top(root) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "0::/../../elsewhere",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/memory.max": 4 * GIB,
            "sys/fs/cgroup/memory.current": 5 * GIB,
            "sys/fs/cgroup/cpu.max": "20000 100000",
        },
    )
    assert (free_bytes(root), num_cpus(root)) == (0, 1)  # never less than one CPU


def test_where_the_system_tells_nothing_something_is_assumed(tmp_path) -> None:
    assert free_bytes(tmp_path) == machine.UNKNOWN_BYTES
    assert num_cpus(tmp_path) >= 1


def test_this_machine_has_something() -> None:
    assert free_bytes() > 0 and 1 <= num_cpus() <= (os.cpu_count() or 1)
