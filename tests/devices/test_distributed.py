"""Checks when processes are joined, from environments alone."""

import jax
import pytest

from t5x_lite.devices import distributed
from t5x_lite.devices.distributed import Cluster, detect_cluster
from tests import metadata_server

OURS = {
  "T5X_LITE_COORDINATOR": "host0:1234",
  "T5X_LITE_NUM_PROCESSES": "2",
  "T5X_LITE_PROCESS_ID": "1",
}
SRUN = {
  "SLURM_JOB_ID": "7",
  "SLURM_NTASKS": "8",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_STEP_NUM_NODES": "2",
  "SLURM_PROCID": "3",
  "SLURM_LOCALID": "3",
}
MPIRUN = {
  "OMPI_COMM_WORLD_SIZE": "4",
  "OMPI_COMM_WORLD_RANK": "2",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MPI4 = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
RANK_2 = {
  "kind": "open_mpi", "num_processes": 4, "process_id": 2,
  "local_device_id": 1,
}  # fmt: skip


@pytest.mark.parametrize(
  "environ, cluster",
  [
    ({}, None),
    ({"PATH": "/bin", "HOME": "/root"}, None),
    (
      OURS,
      Cluster(
        kind="explicit", coordinator_address="host0:1234", num_processes=2,
        process_id=1,
      ),
    ),
    # One process: with the collectives of several.
    (
      OURS | {"T5X_LITE_NUM_PROCESSES": "1", "T5X_LITE_PROCESS_ID": "0"},
      Cluster(
        kind="explicit", coordinator_address="host0:1234", num_processes=1,
        process_id=0,
      ),
    ),
    # What is said on purpose goes before what is found.
    (
      OURS | SRUN,
      Cluster(
        kind="explicit", coordinator_address="host0:1234", num_processes=2,
        process_id=1,
      ),
    ),
    (SRUN, Cluster(kind="slurm")),
    # One task on each node takes all its GPUs.
    (
      SRUN | {"SLURM_NTASKS": "2"},
      Cluster(kind="slurm", all_local_devices=True),
    ),
    (SRUN | {"SLURM_NTASKS": "1"}, None),
    # `srun -n1 --pty python` in an allocation of 8 tasks.
    (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),
    # A batch script itself, outside srun.
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),
    (MPIRUN | MPI4, Cluster(**RANK_2)),
    (
      MPIRUN | {"T5X_LITE_COORDINATOR": "host0:99"},
      Cluster(coordinator_address="host0:99", **RANK_2),
    ),
    # All ranks on this machine need no address.
    (
      MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"},
      Cluster(coordinator_address="localhost:29475", **RANK_2),
    ),
    (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_WORKER_ID": "0"},
     Cluster(kind="tpu")),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "2"},
     Cluster(kind="tpu")),
  ],
)  # fmt: skip
def test_processes_are_joined_where_several_make_a_run(environ, cluster):
  assert detect_cluster(environ) == cluster


@pytest.mark.parametrize(
  "environ, message",
  [
    (
      {"T5X_LITE_COORDINATOR": "h:1"},
      "num_processes is missing .as a flag",
    ),
    ({"T5X_LITE_PROCESS_ID": "1"}, "coordinator_address is missing .as a flag"),
    (OURS | {"T5X_LITE_PROCESS_ID": "2"}, r"PROCESS_ID \(2\) must be below"),
    (OURS | {"T5X_LITE_PROCESS_ID": "-1"}, r"PROCESS_ID \('-1'\)"),
    (OURS | {"T5X_LITE_NUM_PROCESSES": "two"}, r"NUM_PROCESSES \('two'\)"),
    (
      OURS | {"T5X_LITE_COORDINATOR": "host0"},
      r"\('host0'\) must be host:port",
    ),
    (SRUN | {"SLURM_NTASKS": "x"}, r"SLURM_NTASKS \('x'\)"),
    (MPIRUN, "set T5X_LITE_COORDINATOR=host:port"),
  ],
)
def test_incomplete_environment_is_refused(environ, message):
  with pytest.raises(ValueError, match=message) as error:
    detect_cluster(environ)
  assert "\n" not in str(error.value)


@pytest.fixture
def joined(monkeypatch):
  """Records what jax.distributed would be asked for."""
  calls = []
  monkeypatch.setattr(
    jax.distributed, "initialize", lambda **settings: calls.append(settings)
  )
  for name in (*OURS, *SRUN, *MPIRUN, "TPU_WORKER_HOSTNAMES"):
    monkeypatch.delenv(name, raising=False)
  return calls


def test_request_joins_and_refusal_does_not(joined, monkeypatch):
  assert distributed.initialize_distributed() is None
  assert joined == []
  with pytest.raises(ValueError, match="nor srun nor mpirun"):
    distributed.initialize_distributed(True)
  distributed.initialize_distributed(
    coordinator_address="host0:1234", num_processes=2, process_id=0
  )
  assert joined.pop() == {
    "coordinator_address": "host0:1234",
    "num_processes": 2,
    "process_id": 0,
    "local_device_ids": None,
    "cluster_detection_method": "deactivate",
    "heartbeat_timeout_seconds": 100,
  }
  for name, value in OURS.items():
    monkeypatch.setenv(name, value)
  assert distributed.initialize_distributed(False) is None
  assert joined == []
  assert distributed.initialize_distributed().kind == "explicit"
  assert joined.pop()["process_id"] == 1


def serving_workers(endpoints):
  return metadata_server.serving(
    {"attributes/worker-network-endpoints": endpoints}
  )


def test_tpu_workers_come_from_the_metadata_server(joined, monkeypatch):
  monkeypatch.setattr(distributed, "_has_tpu", lambda: True)
  with serving_workers("a:b:10.0.0.1,a:b:10.0.0.2") as address:
    monkeypatch.setenv("GCE_METADATA_IP", address)
    assert distributed.initialize_distributed().kind == "tpu"
  assert joined.pop()["coordinator_address"] is None
  with serving_workers("a:b:10.0.0.1") as address:
    monkeypatch.setenv("GCE_METADATA_IP", address)
    assert distributed.initialize_distributed() is None


def test_missing_metadata_server_means_no_pod(monkeypatch):
  monkeypatch.setenv("GCE_METADATA_IP", "localhost:9")
  assert distributed.tpu_workers() == []


def test_the_time_for_a_heartbeat_is_a_setting(joined, monkeypatch):
  for name, value in OURS.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv("T5X_LITE_HEARTBEAT_SECONDS", "20")
  distributed.initialize_distributed()
  assert joined.pop()["heartbeat_timeout_seconds"] == 20
  for wrong in ("0", "1.5", ""):
    monkeypatch.setenv("T5X_LITE_HEARTBEAT_SECONDS", wrong)
    with pytest.raises(ValueError, match=rf"HEARTBEAT_SECONDS \('{wrong}'\)"):
      distributed.initialize_distributed()
  assert not joined
