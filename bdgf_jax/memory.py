"""The most memory that each stretch of the road took, noted in the workdir."""

import pathlib
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from bdgf_jax.run import read_json, write_json

FILE = "memory.json"
_STATUS, _FORGET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


@contextmanager
def noting_peak(workdir: pathlib.Path, stretch: str) -> Iterator[None]:
    """Notes the peak of what is done inside, in bytes: `host`, this process's resident memory, and `device`, the
    fullest of its devices, where these have memory of their own and tell.

    A stretch that was done before and is only looked up now keeps its earlier, higher peak. On other systems than
    Linux the host's peak is that since the process began; devices nowhere forget theirs.
    """
    if _FORGET.is_file():
        _FORGET.write_text("5")  # the peak begins anew
    yield
    workdir.mkdir(parents=True, exist_ok=True)
    record = read_json(workdir / FILE)
    peaks = {"host": host_peak(), "device": device_peak()}
    before = record.get(stretch, {})
    record[stretch] = {name: max(value, before.get(name) or 0) for name, value in peaks.items() if value}
    write_json(workdir / FILE, record)


def host_peak() -> int:
    """The most resident memory of this process, in bytes."""
    if _STATUS.is_file():
        words = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(words["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_peak() -> int | None:
    """The most memory in use on one of this process's devices, in bytes; None where they do not tell, as CPUs."""
    told = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return max((peak for peak in told if peak), default=None)
