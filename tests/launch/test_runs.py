"""Whole runs through the command line: train, resume, evaluate, infer."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from launch import main, session
from t5x_lite.devices.layout import Layout
from tests import metadata_server

ROOT = pathlib.Path(__file__).parents[2]

RUN = """
include "models/t5_1_1/tiny.gin"
include "optim/adafactor_t5.gin"
from __gin__ import dynamic_registration
from t5x_lite import data
from t5x_lite import model
from t5x_lite.training import run
from tasks import span_corruption
from tasks import text

WIDTH = 32
NUM_LAYERS = 1
NUM_HEADS = 2
HEAD_DIM = 16
HIDDEN = 32

text.text_task.files = "{corpus}"
text.text_task.vocabulary = "bytes"
text.text_task.documents = "line"
text.text_task.validation = 0.2
text.text_task.objective = @span_corruption.SpanCorruption()

data.Data.task = @text.text_task()
data.Data.lengths = {{"inputs": 64, "targets": 32}}
data.Data.batch_size = 8
validation/data.Data.split = "validation"
validation/data.Data.num_batches = 2

run.Run.model = @model.Model()
run.Run.train = @data.Data()
run.Run.eval = [@validation/data.Data()]
run.Run.total_steps = 2
run.Run.log_every = 1
run.Run.eval_every = 2
run.Run.checkpoint_every = 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  corpus = folder / "corpus.txt"
  with corpus.open("w") as file:
    for i in range(300):
      file.write(f"Line {i} says that {i} and {i} make {2 * i}, as ever.\n")
  (folder / "tiny.gin").write_text(textwrap.dedent(RUN.format(corpus=corpus)))
  return folder


@pytest.fixture(scope="module")
def trained(folder):
  model_dir = folder / "run"
  assert train(folder, model_dir) == 0
  return model_dir


def train(folder, model_dir, *flags):
  gin_file = f"--gin_file={folder}/tiny.gin"
  return main.main(["train", gin_file, f"--model_dir={model_dir}", *flags])


def steps(model_dir):
  lines = (model_dir / "metrics.jsonl").read_text().splitlines()
  return sorted({json.loads(line)["step"] for line in lines})


@pytest.mark.slow
def test_a_run_holds_what_reproduces_it(trained):
  files = {path.name for path in trained.iterdir()}
  wanted = {"config.gin", "operative_config.gin", "run.json", "metrics.jsonl"}
  assert wanted | {"checkpoints"} <= files
  assert steps(trained) == [1, 2]


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(folder, trained):
  before = (trained / "metrics.jsonl").read_text()
  assert train(folder, trained) == 0
  assert (trained / "metrics.jsonl").read_text() == before


def test_another_configuration_is_refused(folder, trained, capsys):
  record = (trained / "run.json").read_text()
  assert train(folder, trained, "--gin.run.Run.seed=7") == 2
  assert "seed is 0 there, 7 here" in capsys.readouterr().err
  assert (trained / "run.json").read_text() == record


def test_a_run_that_is_refused_leaves_nothing_behind(folder, capsys):
  model_dir = folder / "refused"
  assert train(folder, model_dir, "--gin.data.Data.task=nonesuch") == 2
  assert "unknown task 'nonesuch'" in capsys.readouterr().err
  assert not model_dir.exists()


def test_evaluations_of_a_step_add_up(trained, capsys):
  def evaluate(*flags):
    assert main.main(["eval", f"--model_dir={trained}", "--json", *flags]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    (path,) = trained.glob("eval-*.json")
    results = json.loads(path.read_text())["results"]
    return printed, {r["of"]["split"]: r["metrics"] for r in results}, results

  for path in trained.glob("eval-*.json"):  # Of other tests.
    path.unlink()
  printed, _, results = evaluate()
  assert any(name.endswith("/unigram_entropy") for name in printed)
  assert [r["metrics"] for r in results] == [printed]
  other, by_split, results = evaluate("--split=train", "--num_batches=1")
  assert by_split == {"validation": printed, "train": other}
  again, by_split, results = evaluate()  # Replaces the first alone.
  assert again == printed and len(results) == 2
  assert by_split == {"validation": printed, "train": other}
  (path,) = trained.glob("eval-*.json")
  path.write_text("{")
  assert main.main(["eval", f"--model_dir={trained}"]) == 2
  assert "is damaged" in capsys.readouterr().err and path.read_text() == "{"
  path.unlink()


def test_a_gin_file_comes_on_top_of_the_runs_own(folder, trained, capsys):
  other = folder / "other.gin"
  other.write_text(
    "from __gin__ import dynamic_registration\n"
    "from t5x_lite import data\n"
    'validation/data.Data.split = "train"\n'
    "validation/data.Data.num_batches = 1\n"
  )
  arguments = [f"--model_dir={trained}", f"--gin_file={other}", "--json"]
  assert main.main(["eval", *arguments]) == 0
  metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
  (tokens,) = (v for k, v in metrics.items() if k.endswith("/tokens"))
  assert 0 < tokens <= 8 * 32
  assert main.main(["infer", "--text=Line ___ says", *arguments]) == 0


def test_another_vocabulary_is_refused(trained, capsys):
  arguments = [f"--model_dir={trained}", "--gin_file=runs/eval_offline.gin"]
  assert main.main(["eval", *arguments]) == 2
  assert "offline has another one (1024 ids)" in capsys.readouterr().err


@pytest.fixture
def sst2(tmp_path, no_new_tasks):
  """A folder with a task of GLUE."""
  path = tmp_path / "glue_sst2"
  path.mkdir()
  for split, count in (("train", 40), ("validation", 6)):
    rows = [{"sentence": f"{i} is fine", "label": i % 2} for i in range(count)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / f"{split}.jsonl").write_text(lines)
  return tmp_path


def test_a_run_is_fine_tuned_on_a_benchmark(trained, sst2):
  model_dir = sst2 / "tuned"
  arguments = [
    f"--model_dir={model_dir}", f"--gin_file={trained}/config.gin",
    "--gin_file=runs/finetune.gin", f"--gin.FROM={trained}",
    "--gin.SUITE=glue", f"--gin.FILES={sst2}", "--gin.VOCABULARY=bytes",
    '--gin.suites.suite.only=["glue_sst2"]', "--gin.INPUTS=64",
    "--gin.BATCH_SIZE=8", "--gin.run.Run.total_steps=1",
  ]  # fmt: skip
  assert main.main(["train", *arguments]) == 0
  metrics = (model_dir / "metrics.jsonl").read_text()
  assert "glue_sst2/accuracy" in metrics


def test_blanks_are_filled_in(trained, capsys):
  arguments = ["infer", f"--model_dir={trained}", "--text=Line ___ says"]
  assert main.main([*arguments, "--json", "--max_new_tokens=4"]) == 0
  result = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert result["text"] == "Line <extra_id_0> says"
  assert result["num_tokens"] <= 4


def test_samples_differ(trained, capsys):
  arguments = ["infer", f"--model_dir={trained}", "--text=Line ___ says"]
  arguments += ["--temperature=1.0", "--num_samples=3", "--max_new_tokens=6"]
  assert main.main([*arguments, "--json"]) == 0
  assert len(set(capsys.readouterr().out.splitlines())) == 3
  # Those of the run's own sampler too; those of greedy decoding would not.
  arguments.remove("--temperature=1.0")
  assert main.main(arguments) == 2
  assert "--num_samples=3 needs sampling" in capsys.readouterr().err
  arguments.append("--gin.run.Run.sampler=@samplers.Sample()")
  assert main.main([*arguments, "--json"]) == 0
  assert len(set(capsys.readouterr().out.splitlines())) == 3


def test_targets_of_a_file_are_scored_in_order(trained, folder):
  pairs = [
    {"inputs": f"a <extra_id_0> {i}", "targets": f"<extra_id_0> {i}"}
    for i in range(3)
  ]
  given, scored = folder / "pairs.jsonl", folder / "scores.jsonl"
  given.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
  arguments = [f"--model_dir={trained}", f"--input={given}"]
  assert main.main(["score", *arguments, f"--output={scored}"]) == 0
  lines = [json.loads(line) for line in scored.read_text().splitlines()]
  assert [line["inputs"] for line in lines] == [p["inputs"] for p in pairs]
  assert all(line["log_likelihood"] < 0 for line in lines)


def test_a_delimiter_without_a_place_is_refused(trained, capsys):
  pair = ["--inputs=a <extra_id_0>", "--targets=<extra_id_0> b"]
  arguments = [f"--model_dir={trained}", *pair, "--delimiter= "]
  assert main.main(["score", *arguments]) == 2
  said = capsys.readouterr().err
  assert "delimiter (' ') cannot be used: the inputs of" in said


def test_a_longer_run_goes_on_and_says_so(folder, trained, capsys):
  longer = folder / "longer"
  shutil.copytree(trained, longer)  # Other tests look at the run as it is.
  assert train(folder, longer, "--gin.run.Run.total_steps=3") == 0
  assert "resuming with total_steps: 2 there, 3 here" in capsys.readouterr().err
  assert steps(longer) == [1, 2, 3]


def test_a_run_whose_text_has_changed_goes_on_only_if_allowed(
  folder, trained, capsys
):
  run, corpus = folder / "changed", folder / "corpus.txt"
  shutil.copytree(trained, run)
  text = corpus.read_text()
  corpus.write_text(text.replace("Line 7 ", "Lane 7 "))
  try:
    assert train(folder, run) == 2
    said = capsys.readouterr().err
    assert f"{corpus} has other contents. Restore it, or go on" in said
    assert train(folder, run, "--allow_changed_data") == 0
    assert train(folder, run) == 0
  finally:
    corpus.write_text(text)


def test_parameters_of_many_devices_are_read_on_others(capsys):
  layout = Layout(mesh={"data": 3, "tensor": 5})
  assert session._on_these_devices(layout).mesh_sizes(8) == {
    "data": 8,
    "tensor": 1,
  }
  assert "data (3) x tensor (5) = 15" in capsys.readouterr().err
  same = Layout(mesh={"data": 4, "tensor": 2})
  assert session._on_these_devices(same) == same


@contextlib.contextmanager
def two_processes(folder, model_dir, *flags, before=(), **environment):
  """Trains in two processes of two devices each, until the block ends.

  What they and the scripts say is in MODEL_DIR.err.
  """
  said = open(f"{model_dir}.err", "w")
  run = subprocess.Popen(
    [
      *before, "bash", str(ROOT / "launch" / "local.sh"), "--processes=2",
      "--devices=2", f"--logs={model_dir}-logs", "--", "train",
      f"--gin_file={folder}/tiny.gin", f"--model_dir={model_dir}", *flags,
    ],
    env=os.environ | {"T5X_LITE_VENV": sys.prefix} | environment,
    cwd=ROOT,
    stderr=said,
  )  # fmt: skip
  try:
    yield run
  finally:
    said.close()
    run.kill()
    for entry in pathlib.Path("/proc").iterdir():
      if f"--model_dir={model_dir}\0" in _read(entry / "cmdline"):
        with contextlib.suppress(ProcessLookupError):
          os.kill(int(entry.name), signal.SIGKILL)


ENDLESS = (
  "--gin.run.Run.total_steps=1000000", "--gin.run.Run.eval_every=None",
  "--gin.run.Run.checkpoint_every=None",
)  # fmt: skip


def wait_until(run, condition):
  """Waits until something is so, while a command runs."""
  deadline = time.monotonic() + 600
  while not condition():
    assert run.poll() is None and time.monotonic() < deadline
    time.sleep(0.5)


def second_process(model_dir):
  """Returns the id of a run's second process."""
  (second,) = (
    int(entry.name)
    for entry in pathlib.Path("/proc").iterdir()
    if entry.name.isdecimal()
    and f"--model_dir={model_dir}" in _read(entry / "cmdline")
    and "T5X_LITE_PROCESS_ID=1" in _read(entry / "environ")
  )
  return second


@pytest.mark.slow
def test_two_processes_train_one_model(folder):
  model_dir = folder / "two"
  with two_processes(folder, model_dir) as run:
    assert run.wait(timeout=900) == 0
  record = json.loads((model_dir / "run.json").read_text())
  assert record["processes"] == 2
  assert record["devices"] == "4 x cpu"
  assert steps(model_dir) == [1, 2]


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all_at_one_step(folder):
  model_dir = folder / "stopped"
  with two_processes(folder, model_dir, *ENDLESS) as run:
    metrics = model_dir / "metrics.jsonl"
    wait_until(run, lambda: metrics.exists() and steps(model_dir))
    os.kill(second_process(model_dir), signal.SIGINT)
    assert run.wait(timeout=300) == 128 + signal.SIGINT
  (saved,) = (model_dir / "checkpoints").iterdir()
  assert int(saved.name) == steps(model_dir)[-1]


@pytest.mark.slow
def test_a_preempted_run_and_one_that_lost_a_process_are_started_again(folder):
  model_dir = folder / "again"
  said = pathlib.Path(f"{model_dir}.err").read_text
  entries = {"preempted": "FALSE"}
  with (
    metadata_server.serving(entries) as address,
    two_processes(
      folder, model_dir, *ENDLESS,
      before=(sys.executable, "-m", "launch.autoresume",
              "--backoff_seconds=4", "--"),
      GCE_METADATA_IP=address, T5X_LITE_HEARTBEAT_SECONDS="60",
    ) as run,
  ):  # fmt: skip
    metrics = model_dir / "metrics.jsonl"
    wait_until(run, lambda: metrics.exists() and steps(model_dir))
    entries["preempted"] = "TRUE"  # Both processes read it, not at one time.
    wait_until(run, lambda: "resuming after step " in said())
    (saved,) = map(int, names(model_dir / "checkpoints"))
    wait_until(run, lambda: steps(model_dir)[-1] > saved)
    os.kill(second_process(model_dir), signal.SIGKILL)
    wait_until(run, lambda: "autoresume: crashed (status " in said())
    start = f"resuming after step {saved} "
    wait_until(run, lambda: said().count(start) == 2)
    # Before the next checkpoint, so what was lost is trained again.
    assert steps(model_dir)[-1] >= saved
    lines = metrics.read_bytes
    begun = len(lines())
    wait_until(run, lambda: len(lines()) > begun)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=300) == os.EX_TEMPFAIL
  # Preempted by a notice, and by SIGTERM: what was lost between is no step.
  assert len(names(model_dir / "checkpoints")) == 2
  assert steps(model_dir) == list(range(1, steps(model_dir)[-1] + 1))


def names(path):
  return sorted(entry.name for entry in path.iterdir())


def _read(path):
  try:
    return path.read_text(errors="replace")
  except OSError:  # The process has ended, or is another user's.
    return ""
