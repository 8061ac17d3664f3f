"""What a device holds, and what it has room for."""

import math
import os
import pathlib
import re

import jax

# How far a predicted total lies from XLA's own account of a compiled step, over
# architectures, dtypes, remat, scan, microbatches and chunked losses. With but
# a few tokens a batch it can lie further off: XLA on the CPU may then hold all
# updates of a clipped Adafactor at once, one more copy of the parameters.
TOLERANCE = 0.15


def peak(parts, *, scan: bool) -> int:
  """Adds up what a training step holds at once.

  A loop over layers has room for all of its gradients from its start, when all
  activations are there too. Elsewhere gradients are made as the backward frees
  activations: of the two, the larger counts. The sum over earlier microbatches
  is there all the time. NaN where activations are not known.

  Args:
    parts: bytes of "parameters", "gradients", "optimizer" and "activations".
    scan: whether an accelerator scans the layers.
  """
  lasting = parts["optimizer"] + parts["gradients"]
  if math.isnan(parts["activations"]):
    return math.nan
  if scan:
    return lasting + parts["parameters"] + parts["activations"]
  return lasting + max(parts["activations"], parts["parameters"])


def check_memory(account: dict, *, available: int | None = None):
  """Refuses a training step that cannot fit.

  The prediction may be TOLERANCE too high: what is doubtful is let through, and
  so is what is not known.

  Args:
    account: of accounting.describe, for the layout of the devices.
    available: bytes of a device; None asks `available_bytes`.

  Raises:
    ValueError: in one line, what is needed and what there is.
  """
  parts = account["bytes"]
  if available is None:
    available = available_bytes()
  if available is None or math.isnan(parts["total"]):
    return
  if parts["total"] * (1 - TOLERANCE) <= available:
    return
  names = ("parameters", "gradients", "optimizer", "activations")
  listed = ", ".join(f"{name} {_gib(parts[name])}" for name in names)
  raise ValueError(
    f"a training step needs about {_gib(parts['total'])} GiB a device "
    f"({listed}) and {_gib(available)} are available: use a smaller batch_size "
    "or lengths, more microbatches, Stack.remat='full' with Stack.scan=True, "
    "or more devices"
  )


def _gib(count) -> str:
  return f"{count / 2**30:.3g}"


def available_bytes(devices=None) -> int | None:
  """Returns the free memory of one device, or None if it is unknown.

  Devices of the CPU share the host's, within the limits of its control groups.

  Args:
    devices: this process's that the run uses; by default all it has.
  """
  devices = jax.local_devices() if devices is None else devices
  if devices[0].platform == "cpu":
    host = _host_bytes()
    return None if host is None else host // len(devices)
  free = []
  for device in devices:
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
      free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
  return min(free, default=None)


def _host_bytes() -> int | None:
  """Reads what the machine, and each control group around us, leaves free."""
  if not os.path.exists("/proc/meminfo"):  # Not Linux.
    if "SC_PHYS_PAGES" not in os.sysconf_names:
      return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  meminfo = pathlib.Path("/proc/meminfo").read_text()
  free = [int(re.search(r"MemAvailable:\s*(\d+) kB", meminfo)[1]) * 1024]
  root = pathlib.Path("/sys/fs/cgroup")
  groups = pathlib.Path("/proc/self/cgroup").read_text()
  own = re.search(r"^0::/(.*)$", groups, re.M)
  folder = root / own[1] if own else root
  for group in (folder, *folder.parents):
    if group.is_relative_to(root) and (group / "memory.max").exists():
      limit = (group / "memory.max").read_text().strip()
      used = int((group / "memory.current").read_text())
      # Cached files make way for a program that asks for memory.
      stat = (group / "memory.stat").read_text()
      used -= int(re.search(r"^inactive_file (\d+)$", stat, re.M)[1])
      free += [] if limit == "max" else [int(limit) - used]
  return min(free)
