"""Writes a study's plan to DIR/study.json, and reads it again.

The plan says what each arm runs: gin files and bindings, which are programs. A
plan that is read must therefore run what the study's own gin files say.
"""

import hashlib

from t5x_lite.files import disk, json_text

PLAN = "study.json"
# Version of the plan and of the arms' files; increase it when they change.
_FORMAT_VERSION = 4
_REMEDY = "delete it to plan anew"


def digest(text) -> str:
  """Returns a digest of a study's configuration and the plan's version."""
  return hashlib.sha256(f"{_FORMAT_VERSION}\n{text}".encode()).hexdigest()


def settings(cell, steps, seed) -> dict[str, list[str]]:
  """Returns the gin files and bindings of a run of an arm."""
  return {
    "files": cell.files,
    "bindings": [
      *cell.bindings,
      f"run.Run.total_steps={steps}",
      *seed_bindings(seed),
    ],
  }


def seed_bindings(seed) -> list[str]:
  """Returns the bindings that pair arms: same seed, same document order."""
  return [
    f"run.Run.seed={seed}",
    f"data.Data.seed={seed}",
    "data.Data.document_order='study'",
  ]


def write(folder, plan):
  """Writes a plan to a study's directory, for `find`."""
  folder.mkdir(parents=True, exist_ok=True)
  disk.write_text(folder / PLAN, json_text.dumps(plan, indent=1) + "\n")


def find(folder, text) -> dict | None:
  """Returns the plan in a study's directory, or None if there is none.

  Raises:
    ValueError: it is the plan of another study or of another version.
  """
  path = folder / PLAN
  if not path.exists():
    return None
  plan = json_text.read(path, "digest", remedy=_REMEDY)
  if plan["digest"] != digest(text):
    raise ValueError(
      f"--output={folder} has another study, an earlier version of this one, "
      "or one written by another version of t5x_lite: give another --output"
    )
  return plan


def check_arms(plan, study, folder):
  """Checks that a plan's arms run what the study says, in their directories.

  Raises:
    ValueError: an arm has other gin files, bindings, stages or a name of its
      own.
  """
  cells = {cell.name: study.runs(cell) for cell in study.cells()}
  for arm in plan["arms"]:
    if not _is_of(arm, study, cells.get(arm["cell"], {})):
      raise ValueError(
        f"{folder / PLAN} is damaged: arm {arm['name']} is none of the study's;"
        f" {_REMEDY}"
      )


def _is_of(arm, study, runs) -> bool:
  from t5x_lite.ablation.study import FIRST, arm_name

  if arm["seed"] not in study.seeds:
    return False
  if arm["name"] != arm_name(arm["cell"], arm["seed"]):
    return False
  for run in arm["runs"]:
    stage, steps = run["stage"], run["steps"]
    if stage not in runs or type(steps) is not int:
      return False
    after = study.stages[stage].after if stage != FIRST else None
    expected = settings(runs[stage], steps, arm["seed"])
    expected["after"] = after or FIRST
    if any(run[key] != value for key, value in expected.items()):
      return False
  return True
