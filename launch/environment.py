"""Sets environment variables before JAX and TensorFlow are imported.

They enable fast settings of CPUs and TPUs and silence library logs. What the
user has set is never changed.
"""

import contextlib
import gc
import glob
import importlib
import importlib.util
import os
import re
import sys
import tempfile

from t5x_lite.devices import libtpu_flags
from t5x_lite.files import user_cache

# 1.26x faster training steps of a small decoder on two AVX-512 cores.
_XLA_FLAG = "xla_cpu_experimental_ynn_fusion_type"
# "+" adds to the list: without it, fused reductions would be lost.
_XLA_VALUE = "+LIBRARY_FUSION_TYPE_DOT"
# Huge pages, and freed memory kept by the process: the first write to an array
# of 50 MB takes 23 ms with page faults and 5 ms without.
_TUNABLES = {
  "glibc.malloc.hugetlb": 1,
  "glibc.malloc.mmap_max": 0,
  "glibc.malloc.trim_threshold": 1 << 40,
  "glibc.malloc.top_pad": 64 << 20,
}
_GUARD = "T5X_LITE_ENVIRONMENT"
# JAX keeps no program that took less, by default 1 s.
_MIN_COMPILE_TIME = "jax_persistent_cache_min_compile_time_secs"

# Device files of Linux: those of TPUs, which libtpu drives, and those of GPUs,
# which plugins of JAX drive.
_DEVICE_FILES = {
  "libtpu": ("/dev/accel*", "/dev/vfio/[0-9]*"),
  "jax_plugins": ("/dev/nvidia*", "/dev/dxg", "/dev/kfd", "/dev/dri/render*"),
}

_QUIET = {
  # 3: XLA and TensorFlow print fatal errors only; other errors are raised as
  # Python exceptions.
  "TF_CPP_MIN_LOG_LEVEL": "3",
  "GRPC_VERBOSITY": "ERROR",
  # TensorFlow only reads data: it must not allocate the whole GPU.
  "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


def prepare(*, compute: bool, restart: bool):
  """Sets environment variables for this process.

  Args:
    compute: whether the command computes on the device. Others run on the CPU
      and leave the accelerator free.
    restart: whether the process may restart itself, once: glibc reads its
      tunables only when a program starts.
  """
  for name, value in _QUIET.items():
    os.environ.setdefault(name, value)
  if not compute:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return
  if not _cpu_only():
    libtpu_flags.set_flags()  # Without libtpu it does nothing.
    return
  # JAX would load libtpu, if installed, for 1 s and ten lines of warnings.
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  if os.environ.get(_GUARD) == "done":
    return
  os.environ[_GUARD] = "done"
  if _XLA_FLAG not in os.environ.get("XLA_FLAGS", "") and _xla_has(_XLA_FLAG):
    _append("XLA_FLAGS", f"--{_XLA_FLAG}={_XLA_VALUE}", " ")
  if restart and _glibc_has_tunables():
    given = os.environ.get("GLIBC_TUNABLES", "")
    missing = [f"{k}={v}" for k, v in _TUNABLES.items() if k not in given]
    if missing:
      _append("GLIBC_TUNABLES", ":".join(missing), ":")
      _restart()


def _append(name, value, separator):
  given = os.environ.get(name)
  os.environ[name] = f"{given}{separator}{value}" if given else value


def has_accelerator() -> bool:
  """Returns whether this process computes on something else than a CPU."""
  return not _cpu_only()


def _cpu_only() -> bool:
  """Returns whether there is only the CPU to compute on.

  Libraries of accelerators also compile for devices that are not here
  (`t5x_lite plan`): on Linux, device files decide.
  """
  platforms = os.environ.get("JAX_PLATFORMS")
  if platforms:
    return platforms == "cpu"
  installed = filter(importlib.util.find_spec, _DEVICE_FILES)
  if sys.platform != "linux":
    return not any(installed)
  patterns = (p for library in installed for p in _DEVICE_FILES[library])
  return not any(map(glob.glob, patterns))


def _xla_has(flag) -> bool:
  """Returns whether the installed XLA library knows a flag."""
  spec = importlib.util.find_spec("jaxlib")
  if spec is None or not spec.submodule_search_locations:
    return False
  folder = spec.submodule_search_locations[0]
  return libtpu_flags.holds(os.path.join(folder, "libjax_common.so"), flag)


def _glibc_has_tunables() -> bool:
  """Returns whether the C library has the tunables: glibc 2.35 and later."""
  try:
    name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
  except (AttributeError, OSError, ValueError):
    return False
  return name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)


def _restart():
  """Restarts the same command in this process."""
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


# TensorFlow's C++ code prints these before it reads any setting.
_NOISE = re.compile(
  rb"^(WARNING: All log messages before absl::InitializeLog.*"
  rb"|I\d{4} \d\d:\d\d.*)\n?",
  re.MULTILINE,
)


@contextlib.contextmanager
def quiet():
  """Captures stderr, and prints it at the end without TensorFlow's messages."""
  sys.stderr.flush()
  terminal = os.dup(2)
  with tempfile.TemporaryFile() as captured:
    os.dup2(captured.fileno(), 2)
    try:
      yield
    finally:
      sys.stderr.flush()
      os.dup2(terminal, 2)
      os.close(terminal)
      captured.seek(0)
      os.write(2, _NOISE.sub(b"", captured.read()))


@contextlib.contextmanager
def importing():
  """Makes importing TensorFlow quiet, and a quarter faster.

  It disables the garbage collector, which would scan the new modules many
  times.
  """
  gc.disable()
  try:
    with quiet():
      yield
  finally:
    gc.freeze()
    gc.enable()


def load_tasks():
  """Imports the tasks that are registered by name, and with them TensorFlow.

  Also keeps compiled programs (`keep_programs`).
  """
  with importing():
    importlib.import_module("tasks")
  keep_programs()


def keep_programs():
  """Sets JAX's compilation cache, so that a restart compiles nothing.

  It is in the user's cache folder, unless $JAX_COMPILATION_CACHE_DIR is set.
  Small programs are kept too, unless
  $JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says otherwise: together they take
  seconds.
  """
  import jax

  if jax.config.jax_compilation_cache_dir is None:
    folder = user_cache.directory() / "programs"
    jax.config.update("jax_compilation_cache_dir", str(folder))
  if _MIN_COMPILE_TIME.upper() not in os.environ:
    jax.config.update(_MIN_COMPILE_TIME, 0.0)
