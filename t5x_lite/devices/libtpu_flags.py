"""Flags of libtpu, which holds XLA's compiler for TPUs."""

import importlib.util
import mmap
import os

_VARIABLE = "LIBTPU_INIT_ARGS"
# Each with what it gave by the plan (docs/scale.md).
FLAGS = {
  # No matmuls in steps, each with a part of its gathered parameters: these hide
  # the gathers, but every step reads and writes the whole sum. LLaMA 7B on
  # v6e:4x4 19% -> 23% MFU; T5 XL on v5e:4x4 22% -> 26%.
  "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
  # Sums of gradients run beside the compute that follows, which those larger
  # than 1 MiB can only do one by one. LLaMA 7B on v5p:4x4x4 62.3% -> 66.4% MFU,
  # 0.050 -> 0.013 s of waiting for all-reduces.
  "xla_enable_async_all_reduce": "true",
  "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
  "xla_jf_crs_combiner_threshold_in_bytes": "1048576",
}


def set_flags():
  """Sets the flags in this process; to be called before libtpu is loaded.

  Flags that the user has set stay as they are. Those that the installed libtpu
  does not have are left out, as it ends the process on an unknown one.
  """
  spec = importlib.util.find_spec("libtpu")
  if spec is None or not spec.submodule_search_locations:
    return
  given = os.environ.get(_VARIABLE, "")
  missing = [name for name in FLAGS if f"--{name}" not in given]
  if missing:
    path = os.path.join(spec.submodule_search_locations[0], "libtpu.so")
    known = (name for name in missing if holds(path, name))
    flags = [f"--{name}={FLAGS[name]}" for name in known]
    os.environ[_VARIABLE] = " ".join(filter(None, [given, *flags]))


def holds(path: str, flag: str) -> bool:
  """Returns whether a library contains a flag's name.

  XLA aborts the process on an unknown flag. Searching the mapped library takes
  3 ms (libjax_common.so) to 0.2 s (libtpu.so) if the name is found.
  """
  try:
    with open(path, "rb") as file:
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
        return library.find(flag.encode()) >= 0
  except (OSError, ValueError):
    return False
