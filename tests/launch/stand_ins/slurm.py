"""Stands in for SLURM: sbatch, srun and scontrol, by the name of the call.

sbatch runs a copy of the script at once, once for each job of an array, and
again as long as `scontrol requeue` asked for it. srun runs the command once for
each task, one after the other. $CLOUD/calls.jsonl has all arguments.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["CLOUD"])
KNOWN = {
  "sbatch": {
    "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task",
    "time", "output", "open-mode", "requeue", "signal", "array",
  },
  "srun": {
    "kill-on-bad-exit", "container-image", "container-mounts",
    "container-workdir",
  },
}  # fmt: skip


def main():
  program, *arguments = sys.argv[1:]
  with (CLOUD / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([program, *arguments]) + "\n")
  if program == "scontrol":
    verb, job = arguments
    assert verb == "requeue" and job == os.environ["SLURM_JOB_ID"]
    (CLOUD / "requeue").touch()
    return 0
  flags, words = options(program, arguments)
  return {"sbatch": sbatch, "srun": srun}[program](flags, words)


def options(program, arguments):
  flags = {}
  while arguments and arguments[0].startswith("--"):
    name, _, value = arguments.pop(0)[2:].partition("=")
    if name not in KNOWN[program]:
      sys.exit(f"{program}: unrecognized option '--{name}'")
    flags[name] = value
  return flags, arguments


def sbatch(flags, words):
  script, *words = words
  copy = CLOUD / "slurm_script"
  shutil.copy(script, copy)
  lines = re.findall(r"^#SBATCH (.*)$", copy.read_text(), re.M)
  flags = options("sbatch", lines)[0] | flags
  first, _, last = flags.get("array", "0").partition("-")
  status = 0
  for job in range(int(first), int(last or first) + 1):
    own = {
      "SLURM_SUBMIT_DIR": os.getcwd(),
      "SLURM_JOB_ID": str(100 + job),
      "SLURM_NTASKS": str(int(flags["nodes"]) * int(flags["ntasks-per-node"])),
    }
    if "array" in flags:
      own["SLURM_ARRAY_TASK_ID"] = str(job)
    while True:
      (CLOUD / "requeue").unlink(missing_ok=True)
      done = subprocess.run(["bash", copy, *words], env=os.environ | own)
      if not (CLOUD / "requeue").exists():
        break
    status = max(status, done.returncode)
  return status


def srun(flags, words):
  status = 0
  for task in range(int(os.environ["SLURM_NTASKS"])):
    own = {"SLURM_PROCID": str(task)}
    done = subprocess.run(words, env=os.environ | own)
    status = max(status, done.returncode)
  return status


sys.exit(main())
