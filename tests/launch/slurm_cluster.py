"""A SLURM cluster of this machine alone, with its files in a folder."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

CONFIGURATION = """
ClusterName=t5x_lite_test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_here() -> bool:
  """Returns whether this machine can be a cluster."""
  programs = (
    "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "sinfo",
  )  # fmt: skip
  return os.geteuid() == 0 and all(map(shutil.which, programs))


@contextlib.contextmanager
def started(folder: pathlib.Path):
  """Starts the cluster; yields the variables by which its programs find it."""
  with socket.socket() as first, socket.socket() as second:
    for bound in (first, second):
      bound.bind(("127.0.0.1", 0))
    ports = [bound.getsockname()[1] for bound in (first, second)]
  for name in ("state", "spool"):
    (folder / name).mkdir()
  file = folder / "slurm.conf"
  file.write_text(
    CONFIGURATION.format(host=socket.gethostname(), ports=ports, folder=folder)
  )
  found = {"SLURM_CONF": str(file)}
  daemons = []
  try:
    for command in (["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
      daemons.append(
        subprocess.Popen(
          command, env=os.environ | found,
          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
      )  # fmt: skip
    _wait(found)
    yield found
  finally:
    for daemon in reversed(daemons):
      daemon.terminate()
      daemon.wait()


def _wait(found):
  """Waits until the node takes jobs."""
  end = time.monotonic() + 60
  while True:
    asked = subprocess.run(
      ["sinfo", "--noheader", "--format=%T"],
      env=os.environ | found, capture_output=True, text=True,
    )  # fmt: skip
    if asked.stdout.strip() == "idle":
      return
    assert time.monotonic() < end, f"the node is {asked.stdout}{asked.stderr}"
    time.sleep(0.2)
