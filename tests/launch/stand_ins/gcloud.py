"""Stands in for gcloud: a TPU whose workers are folders of this machine.

In $CLOUD are calls.jsonl, with the arguments of every call; state.json, with
the queued resources, each with the states still to come, and the TPUs; and the
homes of the workers, worker-0 and worker-1. A command over ssh runs in bash
there.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["CLOUD"])
STATE = CLOUD / "state.json"
WORKERS = ("0", "1")
COMING = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
# Of each command: the flags that it needs, and those that it may have.
QUEUED, VM = "queued-resources", "tpu-vm"
FLAGS = {
  (QUEUED, "create"): (
    {"node-id", "accelerator-type", "runtime-version"},
    {"spot"},
  ),
  (QUEUED, "describe"): (set(), {"format", "verbosity"}),
  (QUEUED, "delete"): (set(), {"force", "quiet"}),
  (VM, "describe"): (set(), {"format", "verbosity"}),
  (VM, "ssh"): ({"command"}, {"worker"}),
  (VM, "scp"): (set(), {"worker"}),
}


def main():
  arguments = sys.argv[1:]
  with (CLOUD / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(arguments) + "\n")
  *area, kind, verb = arguments[:4]
  if area != ["compute", "tpus"] or (kind, verb) not in FLAGS:
    leave(2, f"Invalid choice: '{' '.join(arguments[:4])}'.")
  flags, names = {}, []
  for argument in arguments[4:]:
    if argument.startswith("--"):
      name, _, flags[name[2:]] = argument.partition("=")
    else:
      names.append(argument)
  needed, allowed = FLAGS[kind, verb]
  needed = needed | {"zone"}
  if missing := needed - set(flags):
    leave(2, f"argument --{min(missing)}: Must be specified.")
  if unknown := set(flags) - needed - allowed - {"project"}:
    leave(2, f"unrecognized arguments: --{min(unknown)}")
  if "verbosity" not in flags:
    print("WARNING: An update is available.", file=sys.stderr)
  state = json.loads(STATE.read_text()) if STATE.exists() else {}
  for table in ("queued", "tpus"):
    state.setdefault(table, {})
  act(kind, verb, names, flags, state)
  STATE.write_text(json.dumps(state))


def act(kind, verb, names, flags, state):
  queued, tpus = state["queued"], state["tpus"]
  name = names[-1].partition(":")[0]
  if (kind, verb) == (QUEUED, "create"):
    if name in queued:
      leave(1, f"ALREADY_EXISTS: Resource '{name}' already exists.")
    queued[name] = state.get("coming", COMING)
  elif name not in (queued if kind == QUEUED else tpus):
    leave(1, f"NOT_FOUND: Resource '{name}' was not found.")
  elif (kind, verb) == (QUEUED, "describe"):
    now, *later = queued[name]
    queued[name] = later or [now]
    if now == "ACTIVE":
      tpus[name] = "READY"
    print(now)
  elif verb == "describe":
    print(tpus[name])
  elif verb == "delete":
    if "force" not in flags and name in tpus:
      leave(1, f"FAILED_PRECONDITION: '{name}' has nodes: use --force.")
    del queued[name]
    tpus.pop(name, None)
  else:
    worker = flags.get("worker", "0")
    for number in WORKERS if worker == "all" else [worker]:
      home = CLOUD / f"worker-{number}"
      home.mkdir(exist_ok=True)
      if verb == "scp":
        shutil.copy(names[0], home / names[1].partition(":")[2])
      else:
        there = {"HOME": str(home), "TMUX_TMPDIR": str(home)}
        done = subprocess.run(
          ["bash", "-c", flags["command"]], cwd=home, env=os.environ | there
        )
        if done.returncode:
          sys.exit(done.returncode)


def leave(status, message):
  command = ".".join(sys.argv[1:5])
  print(f"ERROR: (gcloud.{command}) {message}", file=sys.stderr)
  sys.exit(status)


main()
