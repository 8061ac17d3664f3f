"""Sets the process up before JAX and TensorFlow load.

Users get the fast CPU settings and a quiet terminal without knowing of them.
What they set themselves is never changed.
"""

import contextlib
import gc
import importlib
import importlib.util
import mmap
import os
import re
import sys
import tempfile

# 1.26x the speed of a small decoder's training step on two AVX-512 cores.
_XLA_FLAG = "xla_cpu_experimental_ynn_fusion_type"
# "+" adds to the list: without it, fused reductions would be lost.
_XLA_VALUE = "+LIBRARY_FUSION_TYPE_DOT"
# Huge pages, and memory kept rather than returned: an array of 50 MB that is
# written for the first time costs 23 ms in page faults and 5 ms without.
_TUNABLES = {
  "glibc.malloc.hugetlb": 1,
  "glibc.malloc.mmap_max": 0,
  "glibc.malloc.trim_threshold": 1 << 40,
  "glibc.malloc.top_pad": 64 << 20,
}
_GUARD = "T5X_LITE_ENVIRONMENT"

_QUIET = {
  # 3: XLA and TensorFlow print fatal errors alone; what matters to a user
  # arrives as a Python exception.
  "TF_CPP_MIN_LOG_LEVEL": "3",
  "GRPC_VERBOSITY": "ERROR",
  # TensorFlow only reads data: it must not take the whole GPU from JAX.
  "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


def prepare(*, compute: bool, restart: bool):
  """Sets environment variables for this process.

  Args:
    compute: whether the command computes on the device. One that does not
      stays on the CPU, and leaves an accelerator to others.
    restart: whether the process may replace itself by itself, once: glibc
      reads its tunables only when a program starts.
  """
  for name, value in _QUIET.items():
    os.environ.setdefault(name, value)
  if not compute:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return
  if not _cpu_only() or os.environ.get(_GUARD) == "done":
    return
  os.environ[_GUARD] = "done"
  if _XLA_FLAG not in os.environ.get("XLA_FLAGS", "") and _xla_knows(_XLA_FLAG):
    _append("XLA_FLAGS", f"--{_XLA_FLAG}={_XLA_VALUE}", " ")
  if restart and _glibc_knows():
    given = os.environ.get("GLIBC_TUNABLES", "")
    missing = [f"{k}={v}" for k, v in _TUNABLES.items() if k not in given]
    if missing:
      _append("GLIBC_TUNABLES", ":".join(missing), ":")
      _restart()


def _append(name, value, separator):
  given = os.environ.get(name)
  os.environ[name] = f"{given}{separator}{value}" if given else value


def _cpu_only() -> bool:
  """Tells whether JAX can but use the CPU, without importing it."""
  platforms = os.environ.get("JAX_PLATFORMS")
  if platforms:
    return platforms == "cpu"
  accelerators = ("libtpu", "jax_plugins")
  return not any(map(importlib.util.find_spec, accelerators))


def _xla_knows(flag) -> bool:
  """Looks for a flag's name in the installed XLA.

  XLA ends the process at a flag that it does not know. Mapping the library
  takes 3 ms where the name is there and 60 ms where it is not.
  """
  spec = importlib.util.find_spec("jaxlib")
  if spec is None or not spec.submodule_search_locations:
    return False
  path = os.path.join(spec.submodule_search_locations[0], "libjax_common.so")
  try:
    with open(path, "rb") as file:
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
        return library.find(flag.encode()) >= 0
  except (OSError, ValueError):
    return False


def _glibc_knows() -> bool:
  """Tells whether the C library has the tunables: glibc 2.35 and later."""
  try:
    name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
  except (AttributeError, OSError, ValueError):
    return False
  return name == "glibc" and tuple(map(int, version.split("."))) >= (2, 35)


def _restart():
  """Starts this very command again, in this process."""
  sys.stdout.flush()
  sys.stderr.flush()
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


# TensorFlow's C++ code says these before it reads any setting.
_NOISE = re.compile(
  rb"^(WARNING: All log messages before absl::InitializeLog.*"
  rb"|I\d{4} \d\d:\d\d.*)\n?",
  re.MULTILINE,
)


@contextlib.contextmanager
def quiet():
  """Holds back what is printed to stderr inside, to drop TensorFlow's chatter.

  Other messages come out at the end.
  """
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
  """Imports TensorFlow quietly, and a quarter faster than it comes.

  The collector would search its modules for garbage again and again.
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

  Programs compiled from now on are kept beside what the tasks derive from
  their texts, unless the user has set $JAX_COMPILATION_CACHE_DIR: the next run
  of a model starts some seconds sooner.
  """
  with importing():
    importlib.import_module("tasks")
  import jax

  from tasks import cache

  if jax.config.jax_compilation_cache_dir is None:
    folder = cache.directory() / "programs"
    jax.config.update("jax_compilation_cache_dir", str(folder))
