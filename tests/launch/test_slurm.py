"""launch/slurm.sbatch, through stand-ins of sbatch, srun and scontrol.

Where SLURM is installed (Debian's slurmctld, slurmd and slurm-client), and the
tests run as root, a cluster of one node runs it too.
"""

import time

import pytest

from tests.launch import slurm_cluster
from tests.launch.conftest import NASTY, ROOT

SCRIPT = "launch/slurm.sbatch"
SBATCH = ("sbatch", "--ntasks-per-node=2")


@pytest.fixture
def venv(cloud):
  """Makes an environment whose command acts as a script says."""

  def make(script):
    command = cloud.path / "venv" / "bin" / "t5x_lite"
    command.parent.mkdir(parents=True)
    command.write_text(f"#!/usr/bin/env bash\n{script}\n")
    command.chmod(0o755)
    return {"T5X_LITE_VENV": str(cloud.path / "venv")}

  return make


def sruns(cloud):
  """Returns the arguments of all calls of srun."""
  return [words for name, *words in cloud.calls() if name == "srun"]


def test_every_task_runs_the_command_as_it_was_typed(cloud, venv):
  own = venv("""printf '%s\\0' "$@" >$CLOUD/arguments.$SLURM_PROCID
    pwd >$CLOUD/folder""")
  cloud.run(*SBATCH, "--nodes=2", SCRIPT, "train", *NASTY, **own)
  files = sorted(cloud.path.glob("arguments.*"))
  assert len(files) == 4
  for file in files:
    assert file.read_text().split("\0")[:-1] == ["train", *NASTY]
  assert (cloud.path / "folder").read_text() == f"{ROOT}\n"


def test_jobs_of_an_array_know_their_numbers(cloud, venv):
  own = venv('printf "%s\\0" "$@" >>$CLOUD/arguments')
  array = (*SBATCH, "--ntasks-per-node=1", "--array=1-3", SCRIPT)
  cloud.run(*array, "ablate", "--arm=%a", "--x=100%accuracy:100%a", **own)
  words = (cloud.path / "arguments").read_text().split("\0")[:-1]
  assert words == [
    word
    for number in (1, 2, 3)
    for word in ("ablate", f"--arm={number}", "--x=100%accuracy:100%a")
  ]


@pytest.mark.parametrize(
  ["status", "starts"], [(0, 1), (75, 2), (143, 2), (1, 1), (2, 1)]
)
def test_only_a_job_that_was_told_to_stop_is_queued_again(
  status, starts, cloud, venv
):
  # Saved and stopped the first time, done the second.
  own = venv(
    f"""echo >>$CLOUD/starts
    [[ $(wc -l <$CLOUD/starts) == 1 ]] && exit {status}"""
    + "\nexit 0"
  )
  one = (*SBATCH, "--ntasks-per-node=1", SCRIPT, "train")
  cloud.run(*one, status=0 if starts == 2 else status, **own)
  assert (cloud.path / "starts").read_text() == "\n" * starts


@pytest.mark.parametrize("nasty", NASTY)
def test_a_container_gets_the_command_as_it_was_typed(nasty, cloud):
  cloud.tool("t5x_lite", "")
  cloud.tool("apptainer", 'printf "%s\\0" "$@" >$CLOUD/apptainer')
  mounts = f"{ROOT}:{ROOT},/data:/data"
  words = ["t5x_lite", "train", nasty]
  more = ("--mounts=/data:/data", "train", nasty)
  cloud.run(*SBATCH, SCRIPT, "--container_image=hub#t5x_lite:1", *more)
  assert sruns(cloud)[0] == [
    "--kill-on-bad-exit=1", "--container-image=hub#t5x_lite:1",
    f"--container-mounts={mounts}", f"--container-workdir={ROOT}", *words,
  ]  # fmt: skip
  cloud.run(*SBATCH, SCRIPT, "--apptainer", "a b.sif", *more)
  assert (cloud.path / "apptainer").read_text().split("\0")[:-1] == [
    "exec", "--nv", f"--bind={mounts}", f"--pwd={ROOT}", "a b.sif", *words,
  ]  # fmt: skip


def test_a_dry_run_prints_the_very_command_and_runs_none(cloud):
  printed = cloud.run(SCRIPT, "--dry_run", "train", *NASTY)
  assert not cloud.calls()
  cloud.tool("srun", 'printf "%s\\0" "$@" >>$CLOUD/words')
  cloud.shell(printed)
  words = (cloud.path / "words").read_text().split("\0")[:-1]
  assert words == [
    "--kill-on-bad-exit=1", f"{ROOT}/.venv/bin/t5x_lite", "train", *NASTY
  ]  # fmt: skip


@pytest.mark.parametrize(
  ["words", "message"],
  [
    ([], "no command"),
    (["--container=a", "train"], "unknown option --container=a"),
    (["--apptainer=a", "--container_image=b", "train"], "not both"),
    (["--mounts"], "--mounts needs a value"),
  ],
)
def test_a_mistake_is_explained_in_a_line(words, message, cloud):
  error = cloud.run(SCRIPT, *words, status=2)
  assert error.startswith("slurm.sbatch: ") and message in error
  assert error.count("\n") == 1


def test_a_job_from_elsewhere_says_where_to_submit_it(cloud):
  script = str(ROOT / SCRIPT)
  error = cloud.run(*SBATCH, script, "train", cwd=cloud.path, status=2)
  assert f"{cloud.path} is not the checkout" in error


if slurm_cluster.is_here():

  def test_slurm_itself_runs_the_words_and_queues_the_job_again(cloud, venv):
    cloud.remove("sbatch", "srun", "scontrol")
    own = venv("""printf '%s\\0' "$@" >$CLOUD/arguments.$SLURM_PROCID
      echo "$SLURM_NTASKS $SLURM_STEP_NODELIST" >$CLOUD/seen; exit 75""")
    folder = cloud.path / "cluster"
    folder.mkdir()
    with slurm_cluster.started(folder) as found:
      job = cloud.run(
        "sbatch", "--parsable", "--ntasks-per-node=2", "--gpus-per-node=0",
        "--cpus-per-task=1", f"--output={folder}/log", SCRIPT, "train", *NASTY,
        **own, **found,
      ).strip()  # fmt: skip
      end = time.monotonic() + 60
      while "Restarts=1" not in cloud.run(
        "scontrol", "show", "job", job, **found
      ):
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.2)
      cloud.run("scancel", job, **found)
    for task in "01":
      words = (cloud.path / f"arguments.{task}").read_text().split("\0")[:-1]
      assert words == ["train", *NASTY]
    assert (cloud.path / "seen").read_text().startswith("2 ")
