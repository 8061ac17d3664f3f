"""Stands in for kubectl and a cluster: pods are folders of this machine.

In $CLOUD are calls.jsonl, with the arguments of every call, and for each object
KIND.NAME.json, with a folder POD for each of its pods: their `output` and
`status`. A pod's command runs to its end as soon as the object is created.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import yaml

CLOUD = pathlib.Path(os.environ["CLOUD"])


def main():
  arguments = sys.argv[1:]
  with (CLOUD / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(arguments) + "\n")
  words = [a for a in arguments if not a.startswith("--")]
  flags = dict(a[2:].partition("=")[::2] for a in arguments if a[:2] == "--")
  verb, *names = words
  unknown = set(flags) - {
    "filename", "selector", "follow", "tail", "namespace", "context",
  }  # fmt: skip
  if unknown:
    leave(f"error: unknown flag: --{min(unknown)}")
  if verb == "create" and flags["filename"] == "-":
    create(yaml.safe_load(sys.stdin))
  elif verb == "delete":
    kind, name = names
    file = CLOUD / f"{kind}.{name}.json"
    if not file.exists():
      leave(f'Error from server (NotFound): {kind}s "{name}" not found')
    file.unlink()
    for pod in CLOUD.glob(f"{name}-*"):
      shutil.rmtree(pod)
  elif verb in ("get", "logs"):
    for pod in selected(flags["selector"]):
      if verb == "logs":
        print((pod / "output").read_text(), end="")
      else:
        print(pod.name, (pod / "status").read_text())
  else:
    leave(f'error: unknown command "{verb}"')


def create(manifest):
  kind, name = manifest["kind"].lower(), manifest["metadata"]["name"]
  file = CLOUD / f"{kind}.{name}.json"
  if file.exists():
    leave(f'Error from server (AlreadyExists): {kind}s "{name}" already exists')
  file.write_text(json.dumps(manifest))
  jobs = {name: manifest["spec"]}
  if kind == "jobset":
    jobs = {
      f"{name}-{part['name']}-{number}": part["template"]["spec"]
      for part in manifest["spec"]["replicatedJobs"]
      for number in range(part["replicas"])
    }
  for job, spec in jobs.items():
    for index in range(spec["completions"]):
      start(CLOUD / f"{job}-{index}", index, spec["template"])
  print(f"{kind}/{name} created")


def start(pod, index, template):
  (container,) = template["spec"]["containers"]
  pod.mkdir()
  (pod / "labels.json").write_text(
    json.dumps(
      template["metadata"]["labels"]
      | {"batch.kubernetes.io/job-completion-index": str(index)}
    )
  )
  own = {"JOB_COMPLETION_INDEX": str(index), "HOME": str(pod)}
  words = [*container["command"], *container["args"]]
  with (pod / "output").open("w") as output:
    done = subprocess.run(
      [expand(word, own) for word in words],
      stdout=output, stderr=output, cwd=pod, env=os.environ | own,
    )  # fmt: skip
  (pod / "status").write_text(str(done.returncode))


def expand(text, values):
  """Replaces $(NAME), and reads $$ as $, as Kubernetes does in a command."""
  left, done = text, ""
  while "$" in left:
    before, _, left = left.partition("$")
    done += before
    name, end, after = left[1:].partition(")")
    if left[:1] == "$":
      done, left = done + "$", left[1:]
    elif left[:1] == "(" and end and name in values:
      done, left = done + values[name], after
    else:
      done += "$"
  return done + left


def selected(selector):
  wanted = dict(term.split("=") for term in selector.split(","))
  for file in sorted(CLOUD.glob("*/labels.json")):
    if wanted.items() <= json.loads(file.read_text()).items():
      yield file.parent


def leave(message):
  print(message, file=sys.stderr)
  sys.exit(1)


main()
