"""A cloud of stand-ins: gcloud, kubectl, SLURM and tmux, on this machine."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
STAND_INS = pathlib.Path(__file__).parent / "stand_ins"
# One word each; all that a shell, tmux, YAML and Kubernetes would change.
NASTY = (
  '--gin.A="it\'s 100% of $HOME, `ls` and $(ls) & \\n * ; $$ ${name} %a"',
  "--gin.B='two\nlines\tand a tab '",
  "$(JOB_COMPLETION_INDEX)",
  "",
  "é;",
)


class Cloud:
  """Runs launch scripts with the stand-ins on the PATH.

  Attributes:
    path: where the stand-ins keep what they are told.
  """

  def __init__(self, path):
    self.path = path
    self._tools = path / "bin"
    self._tools.mkdir()
    programs = {
      "gcloud": "gcloud.py", "kubectl": "kubectl.py",
      "sbatch": "slurm.py sbatch", "srun": "slurm.py srun",
      "scontrol": "slurm.py scontrol",
    }  # fmt: skip
    for name, program in programs.items():
      self.tool(name, f'exec {sys.executable} {STAND_INS}/{program} "$@"')

  def tool(self, name, script):
    """Makes a program, from the lines of a bash script."""
    file = self._tools / name
    file.write_text(f"#!/usr/bin/env bash\n{script}\n")
    file.chmod(0o755)

  def remove(self, *names):
    """Removes stand-ins, so that the machine's own programs run."""
    for name in names:
      (self._tools / name).unlink()

  def run(self, *command, cwd=ROOT, status=0, **environment):
    """Runs a command, such as "launch/gke.sh"; returns what it printed.

    Args:
      command: a launch script or a stand-in, and its arguments.
      cwd: where.
      status: the exit status that is expected.
      environment: variables that are added.
    """
    interpreter = ["bash"] if command[0].startswith("launch/") else []
    done = subprocess.run(
      [*interpreter, *command],
      cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL,
      timeout=60, env=self._environment() | environment,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr

  def shell(self, line):
    """Runs a line of a guide in the checkout; returns what it printed."""
    return self.run("bash", "-c", line)

  def calls(self):
    """Returns the arguments of all calls of the stand-ins so far."""
    file = self.path / "calls.jsonl"
    if not file.exists():
      return []
    return [json.loads(line) for line in file.read_text().splitlines()]

  def _environment(self):
    kept = {
      name: value
      for name, value in os.environ.items()
      if not name.startswith(("SLURM_", "TMUX", "T5X_LITE_"))
    }
    return kept | {
      "PATH": f"{self._tools}{os.pathsep}{os.environ['PATH']}",
      "CLOUD": str(self.path),
      "PYTHON": sys.executable,
    }


@pytest.fixture
def cloud():
  """Returns a cloud; its path is short, since tmux's socket lies within."""
  with tempfile.TemporaryDirectory(prefix="cloud") as folder:
    yield Cloud(pathlib.Path(folder))


@pytest.fixture(params=["stand-in", *filter(None, [shutil.which("tmux")])])
def tmux(request, cloud):
  """Puts tmux on the PATH: a stand-in and, where there is one, the real one."""
  real = shutil.which("tmux") or "tmux"
  program = STAND_INS / "tmux" if request.param == "stand-in" else real
  cloud.tool("tmux", f'exec {program} "$@"')
  yield
  for home in cloud.path.glob("worker-*"):
    cloud.shell(f"TMUX_TMPDIR={home} tmux -L t5x_lite kill-server || true")
