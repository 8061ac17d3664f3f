"""Joins the processes of one run, where there are several.

Who starts processes says so in the environment: SLURM, Open MPI, a TPU pod, or
a launcher of our own. Whether to join is decided by `detect_cluster`, a pure
function of that environment.
"""

import dataclasses
import glob
import importlib.util
import os
from collections.abc import Mapping

import jax
from absl import logging
from jax.experimental import multihost_utils

from t5x_lite.devices import google_cloud, starting

COORDINATOR = "T5X_LITE_COORDINATOR"
NUM_PROCESSES = "T5X_LITE_NUM_PROCESSES"
PROCESS_ID = "T5X_LITE_PROCESS_ID"
# Seconds without a sign of life after which a process counts as lost, and the
# others end (lost_process.py).
HEARTBEAT = "T5X_LITE_HEARTBEAT_SECONDS"

# For ranks that all run on this machine; any free port would do.
_LOCAL_PORT = 29475


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
  """Says what joins the processes, and what JAX does not find out by itself.

  Attributes:
    kind: "explicit", "slurm", "open_mpi" or "tpu".
    coordinator_address: host:port of process 0; None leaves it to JAX.
    num_processes: None leaves it to JAX.
    process_id: None leaves it to JAX.
    local_device_id: the one GPU of this process; None leaves it to JAX.
    all_local_devices: whether a process takes all GPUs of its machine; JAX
      gives each SLURM task one.
  """

  kind: str
  coordinator_address: str | None = None
  num_processes: int | None = None
  process_id: int | None = None
  local_device_id: int | None = None
  all_local_devices: bool = False


def initialize_distributed(
  enabled: bool | None = None,
  *,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Cluster | None:
  """Joins the other processes of this run; call it before any computation.

  Args:
    enabled: None joins where several processes are detected, True must, False
      does not.
    coordinator_address: host:port of process 0, on request; with it go
      `num_processes` and `process_id`.

  Returns:
    What was joined, or None where this process is alone.

  Raises:
    ValueError: `enabled` is True and nothing is detected, or what is given is
      not complete.
  """
  if enabled is False or jax.distributed.is_initialized():
    return None
  given = {
    COORDINATOR: coordinator_address,
    NUM_PROCESSES: num_processes,
    PROCESS_ID: process_id,
  }
  environ = _with_tpu_workers(os.environ)
  environ |= {name: str(v) for name, v in given.items() if v is not None}
  cluster = detect_cluster(environ)
  heartbeat = _number({HEARTBEAT: "100"} | environ, HEARTBEAT, least=1)
  if cluster is None:
    if enabled:
      raise ValueError(
        "distributed run asked for, but neither a TPU pod nor srun nor mpirun"
        f" with several processes is detected: set {COORDINATOR},"
        f" {NUM_PROCESSES} and {PROCESS_ID}"
      )
    return None
  _join(cluster, heartbeat)
  logging.info(
    "process %d of %d, joined by %s",
    jax.process_index(), jax.process_count(), cluster.kind,
  )  # fmt: skip
  return cluster


def detect_cluster(environ: Mapping[str, str]) -> Cluster | None:
  """Tells from environment variables whether several processes make one run.

  Raises:
    ValueError: the variables contradict each other or are incomplete.
  """
  numbered = NUM_PROCESSES in environ or PROCESS_ID in environ
  # Open MPI says the numbers itself: the address alone may be added to it.
  if numbered or (
    COORDINATOR in environ and "OMPI_COMM_WORLD_SIZE" not in environ
  ):
    return _explicit(environ)
  return _slurm(environ) or _open_mpi(environ) or _tpu(environ)


def _explicit(environ) -> Cluster | None:
  names = {
    COORDINATOR: "coordinator_address",
    NUM_PROCESSES: "num_processes",
    PROCESS_ID: "process_id",
  }
  missing = [name for name in names if not environ.get(name)]
  if missing:
    raise ValueError(
      f"a run of several processes needs {', '.join(names.values())}: "
      f"{names[missing[0]]} is missing (as a flag, or {missing[0]})"
    )
  num_processes = _number(environ, NUM_PROCESSES, least=1)
  process_id = _number(environ, PROCESS_ID, least=0)
  if process_id >= num_processes:
    raise ValueError(
      f"{PROCESS_ID} ({process_id}) must be below {NUM_PROCESSES}"
      f" ({num_processes})"
    )
  host, _, port = environ[COORDINATOR].rpartition(":")
  if not host or not port.isdigit():
    raise ValueError(
      f"{COORDINATOR} ({environ[COORDINATOR]!r}) must be host:port"
    )
  # One process joins too: its CPU devices then add up in the order that those
  # of several processes do (by gloo), so that a run may go on with any number.
  return Cluster(
    kind="explicit",
    coordinator_address=environ[COORDINATOR],
    num_processes=num_processes,
    process_id=process_id,
  )


def _slurm(environ) -> Cluster | None:
  # Set by srun for each task. A batch script or an interactive allocation has
  # SLURM_NTASKS too, but is one process.
  step = ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
  if not all(name in environ for name in ("SLURM_NTASKS", *step)):
    return None
  tasks = _number(environ, "SLURM_NTASKS", least=1)
  if "SLURM_STEP_NUM_TASKS" in environ:
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", least=1)
  if tasks == 1:
    return None
  nodes = environ.get("SLURM_STEP_NUM_NODES", "")
  return Cluster(kind="slurm", all_local_devices=nodes == str(tasks))


def _open_mpi(environ) -> Cluster | None:
  if "OMPI_COMM_WORLD_SIZE" not in environ:
    return None
  num_processes = _number(environ, "OMPI_COMM_WORLD_SIZE", least=1)
  if num_processes == 1:
    return None
  rank = _number(environ, "OMPI_COMM_WORLD_RANK", least=0)
  address = environ.get(COORDINATOR)
  # Up to Open MPI 4, JAX reads the address from OMPI_MCA_orte_hnp_uri.
  if not address and "OMPI_MCA_orte_hnp_uri" not in environ:
    if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") != str(num_processes):
      raise ValueError(
        "Open MPI does not say where process 0 runs: set"
        f" {COORDINATOR}=host:port (mpirun -x {COORDINATOR}=...)"
      )
    address = f"localhost:{_LOCAL_PORT}"
  return Cluster(
    kind="open_mpi",
    coordinator_address=address,
    num_processes=num_processes,
    process_id=rank,
    local_device_id=_number(environ, "OMPI_COMM_WORLD_LOCAL_RANK", least=0),
  )


def _tpu(environ) -> Cluster | None:
  hosts = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
  slices = environ.get("MEGASCALE_NUM_SLICES", "1")
  if len(hosts) > 1 or slices not in ("", "1"):
    return Cluster(kind="tpu")
  return None


def _number(environ, name: str, *, least: int) -> int:
  text = environ.get(name, "")
  if not text.isdigit() or int(text) < least:
    raise ValueError(
      f"{name} ({text!r}) must be a whole number, {least} or more"
    )
  return int(text)


def _with_tpu_workers(environ: Mapping[str, str]) -> dict[str, str]:
  """Adds the workers of a TPU VM, which its metadata server knows."""
  environ = dict(environ)
  if "TPU_WORKER_HOSTNAMES" in environ or not _has_tpu():
    return environ
  if workers := tpu_workers():
    environ["TPU_WORKER_HOSTNAMES"] = ",".join(workers)
  return environ


def _has_tpu() -> bool:
  chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
  return bool(chips) and importlib.util.find_spec("libtpu") is not None


def tpu_workers() -> list[str]:
  """Asks Google Cloud's metadata server for the workers of this TPU slice."""
  workers = google_cloud.metadata("attributes/worker-network-endpoints")
  return workers.split(",") if workers else []


def _join(cluster: Cluster, heartbeat_seconds: int):
  explicit = cluster.coordinator_address is not None
  jax.distributed.initialize(
    coordinator_address=cluster.coordinator_address,
    num_processes=cluster.num_processes,
    process_id=cluster.process_id,
    local_device_ids=cluster.local_device_id,
    cluster_detection_method="deactivate" if explicit else None,
    heartbeat_timeout_seconds=heartbeat_seconds,
  )
  starting.watch()
  if cluster.all_local_devices:
    jax.config.update("jax_cuda_visible_devices", "all")
    jax.config.update("jax_rocm_visible_devices", "all")
  if jax.default_backend() == "cpu":
    # The first collective connects the processes, and gives up on one that is
    # 30 s behind: later, one that reads more slowly might be.
    multihost_utils.sync_global_devices("joined")
