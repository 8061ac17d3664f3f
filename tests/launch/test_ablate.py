"""Studies are planned, run in processes of their own, resumed and reported."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch import arms, config, main, study_file, study_plan
from t5x_lite.ablation import measures
from t5x_lite.ablation import study as study_lib
from t5x_lite.files import lock
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "gin" / "ablations"
STUDIES = sorted(FOLDER.glob("**/*.gin"))


def test_there_are_studies():
  assert len(STUDIES) >= 13


@pytest.mark.parametrize(
  "path", STUDIES, ids=lambda p: str(p.relative_to(FOLDER))
)
def test_every_cell_of_the_shipped_studies_builds(path):
  config.load([str(path)])
  study = config.build(study_lib.Study)
  cells = [cell for cell in study.cells() if cell.skipped is None]
  for cell in cells:
    for settings in study.runs(cell).values():
      run = study_plan.build(settings, seed=1)
      assert (
        run.seed == run.train.seed == 1 and run.train.document_order == "study"
      )
      if config.is_bound(measures.Measures):
        suites = config.build(measures.Measures).suites
        assert all(suite.tasks for suite in suites.values())


def test_mistakes_are_one_line(capsys):
  for arguments, message in [
    (["ablate"], "give --gin_file, a study"),
    (["measure"], "give --model_dir"),
    (["measure", "--model_dir=/nonesuch"], "holds no run"),
  ]:
    assert main.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_another_study_is_refused(tmp_path):
  plan = {"digest": study_file.digest("one")}
  study_file.write(tmp_path, plan)
  assert study_file.find(tmp_path, "one") == plan
  with pytest.raises(ValueError, match="has another study"):
    study_file.find(tmp_path, "two")
  assert study_file.find(tmp_path / "none", "one") is None


def test_a_study_that_is_there_is_gone_on_with_only_if_it_may(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  smoke = FOLDER / "smoke.gin"
  config.load([str(smoke)])
  for text, flags, message in [
    (
      config.text(),
      ["--noresume"],
      "--output=studies/smoke already has this study",
    ),
    ("another", ["--resume"], "--output=studies/smoke has another study"),
  ]:
    folder = tmp_path / "studies" / "smoke"
    study_file.write(folder, {"digest": study_file.digest(text)})
    assert main.main(["ablate", f"--gin_file={smoke}", *flags]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


@pytest.fixture
def planned(tmp_path):
  """A planned study of one cell, whose gin file is not there, and two seeds."""
  path = tmp_path / "absent.gin"
  path.write_text(
    "from __gin__ import dynamic_registration\n"
    "from t5x_lite.ablation import study\n"
    "study.Study.question = 'Any?'\n"
    "study.Study.grid = {'model': {'one': ['a.gin']}}\n"
    "study.Study.seeds = [0, 1]\n"
    "study.Study.budget = @study.Budget()\nstudy.Budget.amount = 3\n"
  )
  config.load([str(path)])
  cell = next(config.build(study_lib.Study).cells())
  first = {"stage": "", "after": "", "steps": 3, "imports": []}
  plan = {
    "digest": study_file.digest(config.text()),
    "arms": [
      {
        "name": f"one-seed{seed}",
        "cell": "one",
        "seed": seed,
        "runs": [first | study_file.settings(cell, 3, seed)],
      }
      for seed in (0, 1)
    ],
  }
  folder = tmp_path / "study"
  study_file.write(folder, plan)
  return folder, plan, ["ablate", f"--gin_file={path}", f"--output={folder}"]


def test_a_cluster_runs_arms_by_their_number(planned, tmp_path, capsys):
  folder, _, command = planned
  elsewhere = [*command, f"--output={tmp_path}/none", "--arm=1"]
  assert main.main(elsewhere) == 2
  assert "plan it first, with --jobs=0" in capsys.readouterr().err
  assert main.main([*command, "--arm=3"]) == 2
  assert "--arm (3) must be 1 to 2" in capsys.readouterr().err
  # The second, whose gin file is not there, alone.
  assert main.main([*command, "--arm=2"]) == 1
  arm_folders = [path.name for path in (folder / "arms").iterdir()]
  assert arm_folders == ["one-seed1"]
  log = (folder / "arms" / "one-seed1" / "arm.log").read_text()
  assert "a.gin" in log and log in capsys.readouterr().err


def test_two_do_not_plan_one_study(planned, capsys):
  folder, _, command = planned
  (folder / study_file.PLAN).unlink()
  with lock.directory(folder):
    assert main.main([*command, "--jobs=0"]) == 2
  said = capsys.readouterr().err
  assert f"--output={folder} is being planned by process" in said
  assert said.count("\n") == 1


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("files", ["/tmp/theirs.gin"]),
    ("bindings", ["TASK=@os.system()"]),
    ("stage", "../../elsewhere"),
    ("steps", "3 --flag"),
    ("name", "../elsewhere"),
    ("cell", "two"),
  ],
)
def test_a_plan_runs_what_its_study_says_and_no_more(
  planned, capsys, key, value
):
  folder, plan, command = planned
  arm = plan["arms"][1]
  (arm if key in arm else arm["runs"][0])[key] = value
  study_file.write(folder, plan)
  assert main.main([*command, "--arm=1"]) == 2
  printed = capsys.readouterr().err
  assert "is none of the study's; delete it" in printed
  assert printed.count("\n") == 1 and not (folder / "arms").exists()


def entry(name="arm", stages=()):
  run = {"steps": 3, "files": ["a.gin"], "bindings": ["X='a b'"], "after": ""}
  run["imports"] = ["my_layer"]
  runs = [{**run, "stage": stage} for stage in ("", *stages)]
  return {"name": name, "runs": runs}


def arm(folder, script, name="arm"):
  """An arm whose commands are replaced by a script."""
  made = arms.Arm(folder, entry(name))
  made._runs[0].commands = [["sh", "-c", script]]
  return made


def test_an_arm_is_given_its_gin_files_and_bindings(tmp_path):
  train, measure = arms.Arm(tmp_path, entry())._runs[0].commands
  assert "train" in train and "measure" in measure
  assert "--gin_file=a.gin" in train and "--gin.X='a b'" in train
  assert "--allow_import=my_layer" in measure


def test_stages_run_after_what_they_go_on_from_and_once(tmp_path):
  made = arms.Arm(tmp_path, entry(stages=["tuned"]))
  first, then = made._runs
  assert not any("warm_start" in word for word in first.commands[0])
  assert f"--model_dir={made.path}/tuned" in then.commands[0]
  assert f"--gin.checkpoints.WarmStart.path='{made.path}'" in then.commands[0]
  for run, path in ((first, made.path), (then, made.path / "tuned")):
    script = f"mkdir -p {path}; echo x >> {path}/ran; echo '{{\"step\": 3}}'"
    run.commands = [["sh", "-c", f"{script} > {path}/measures.json"]]
  assert arms.run_all([made], 1, print) == []
  # What is there is left alone.
  (made.path / "tuned" / "measures.json").unlink()
  assert not made.done and arms.run_all([made], 1, print) == []
  assert (made.path / "ran").read_text() == "x\n"
  assert (made.path / "tuned" / "ran").read_text() == "x\nx\n"


def test_an_arm_is_run_once_and_a_failure_stops_no_other(tmp_path):
  write = "echo ran >> {0}/ran; echo '{{\"step\": 3}}' > {0}/measures.json"
  made = [
    arm(tmp_path, "echo the reason; exit 3", name="bad"),
    arm(tmp_path, write.format(tmp_path / "arms" / "good"), name="good"),
  ]
  said = []
  assert arms.run_all(made, 1, said.append) == ["bad"]
  assert any("bad FAILED" in line and "the reason" in line for line in said)
  assert arms.run_all(made[1:], 2, said.append) == []
  assert (made[1].path / "ran").read_text() == "ran\n"


def test_an_arm_that_runs_elsewhere_is_left_alone(tmp_path):
  one, two = (arm(tmp_path, "sleep 60") for _ in range(2))
  one.start()
  with pytest.raises(ValueError, match="is already being run by another"):
    two.start()
  one.stop()
  two.start()
  two.stop()


def test_arms_are_all_stopped_where_there_is_no_flock(tmp_path, monkeypatch):
  def flock(file, how):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(lock.fcntl, "flock", flock)
  made = [arm(tmp_path, "sleep 60", name=name) for name in ("one", "two")]

  def interrupt():
    raise KeyboardInterrupt

  monkeypatch.setattr(made[1], "poll", interrupt)
  with pytest.raises(KeyboardInterrupt):
    arms.run_all(made, 2, print)
  assert [one._process.returncode for one in made] == [-signal.SIGTERM] * 2


# An arm of the smoke study, of two stages; what they measure is little.
KILLED = """
include "ablations/smoke.gin"
from __gin__ import dynamic_registration
from t5x_lite.ablation import measures
from t5x_lite.ablation import study
study.Study.grid = {
  "architecture": {"causal": [
    "transformer.Transformer.encoder=None",
    "decoder/stack.Layer.cross_attention=None",
    "measures.Measures.suites={}",
  ]},
  "objective": {"causal_lm": ["objectives/causal_lm.gin"]},
}
study.Study.seeds = (0,)
"""


def run_study(folder, *, kill_when=None):
  """Runs a study; stops it once a file is there."""
  gin = folder.parent / "killed.gin"
  gin.write_text(KILLED)
  command = [
    sys.executable, "-m", "launch.main", "ablate", f"--output={folder}",
    f"--gin_file={gin}",
  ]  # fmt: skip
  with subprocess.Popen(
    command, cwd=ROOT, env=processes.environment()
  ) as process:
    while kill_when and not list(folder.glob(kill_when)):
      assert process.poll() is None
      time.sleep(0.2)
    if kill_when:
      process.send_signal(signal.SIGTERM)
  assert (process.returncode == 0) is (kill_when is None)


def results(folder):
  return json.loads((folder / "results.json").read_text())


def figures(found):
  """Returns results without what depends on the machine's mood."""
  found = json.loads(json.dumps(found))
  for cell in found["cells"].values():
    del cell["timing"]
    for run in (cell, *cell["stages"].values()):
      del run["totals"]["seconds"], run["account"]["step_seconds"]
  del found["provenance"], found["step_ratios"]
  return found


@pytest.mark.slow
def test_killing_a_study_changes_no_figure(tmp_path):
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  run_study(whole)
  run_study(cut, kill_when="arms/*/fine_tuning/metrics.jsonl")
  run_study(cut)
  assert results(whole)["arms_done"] == results(whole)["arms_total"] == 1
  assert figures(results(cut)) == figures(results(whole))
