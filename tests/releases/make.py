"""Makes the small runs that later versions must be able to go on with.

  python -m tests.releases.make

Run it for a release, from the checkout, and never again for that version. It
writes tests/releases/VERSION/, which tests/test_releases.py restores from in
each later version:

  corpus.txt      what the runs were trained on
  KIND/run/       the run of an encoder-decoder or a decoder: configuration,
                  record, vocabulary, metrics, a checkpoint, an evaluation
  KIND/hf/, KIND/split/    its model, converted
  KIND/expected.json       the losses of the steps that follow, and a text
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile

import t5x_lite
from launch import main

ROOT = pathlib.Path(__file__).parents[2]
STEPS, MORE_STEPS = 4, 2
TEXT = {"t5": "Line 7 says <extra_id_0> make 14.", "llama": "Line 7 says"}

# One kind keeps the moments of Adam, the other the factored ones of Adafactor.
KINDS = {
  "t5": ("t5_1_1", "adafactor_t5", "span_corruption.SpanCorruption",
         '{"inputs": 48, "targets": 24}'),
  "llama": ("llama", "adamw", "causal_lm.CausalLM", '{"targets": 48}'),
}  # fmt: skip
GIN = """
include "models/{model}/tiny.gin"
include "optim/{optimizer}.gin"
from __gin__ import dynamic_registration
from t5x_lite import data
from t5x_lite import model
from t5x_lite.optim import schedules
from t5x_lite.training import run
from tasks import {module}
from tasks import text

WIDTH = 8
NUM_LAYERS = 1
NUM_HEADS = 2
HEAD_DIM = 4
HIDDEN = 8

text.text_task.files = "{corpus}"
text.text_task.vocabulary = "bytes"
text.text_task.documents = "line"
text.text_task.validation = 0.2
text.text_task.objective = @{objective}()

data.Data.task = @text.text_task()
data.Data.lengths = {lengths}
data.Data.batch_size = 8
validation/data.Data.split = "validation"
validation/data.Data.num_batches = 2

schedules.Cosine.warmup_steps = 1

run.Run.model = @model.Model()
run.Run.train = @data.Data()
run.Run.eval = [@validation/data.Data()]
run.Run.total_steps = {steps}
run.Run.log_every = 1
run.Run.eval_every = {steps}
run.Run.checkpoint_every = {steps}
"""


def command(*words) -> str:
  """Runs one command; returns what it prints."""
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    assert main.main(list(map(str, words))) == 0, words
  return printed.getvalue()


def resume(run) -> list[float]:
  """Trains a run on; returns the losses of the steps that follow."""
  total = STEPS + MORE_STEPS
  command("train", f"--model_dir={run}", f"--gin.run.Run.total_steps={total}")
  lines = (run / "metrics.jsonl").read_text().splitlines()
  found = [line for line in map(json.loads, lines) if line["kind"] == "train"]
  assert [line["step"] for line in found] == list(range(1, total + 1))
  return [line["loss"] for line in found[STEPS:]]


def infer(run, kind) -> dict:
  """Returns the text that a run's model writes, and its likelihood."""
  words = [f"--model_dir={run}", f"--text={TEXT[kind]}", "--max_new_tokens=8"]
  return json.loads(command("infer", "--json", *words))


def make(kind, folder, corpus):
  """Makes one run and what belongs to it."""
  model, optimizer, objective, lengths = KINDS[kind]
  gin_file = folder / "tiny.gin"
  gin_file.write_text(
    GIN.format(
      model=model, optimizer=optimizer, objective=objective,
      module=objective.partition(".")[0], lengths=lengths, steps=STEPS,
      corpus=corpus,
    )
  )  # fmt: skip
  run = folder / "run"
  command("train", f"--gin_file={gin_file}", f"--model_dir={run}")
  gin_file.unlink()
  for extra in (*run.glob("events.*"), *run.glob("operative_config.gin")):
    extra.unlink()  # Large, and read by people alone.
  for note in run.rglob("commit_success.txt"):
    note.write_text(note.read_text().replace(f"{ROOT}/", ""))
  command("eval", f"--model_dir={run}")
  expected = {"infer": infer(run, kind)}
  for to in ("hf", "split"):
    command(
      "convert", f"--input={run}", f"--to={to}", f"--output={folder}/{to}"
    )
  with tempfile.TemporaryDirectory() as copy:
    shutil.copytree(run, f"{copy}/run")
    expected["losses"] = resume(pathlib.Path(copy) / "run")
  (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def make_all():
  """Makes the runs of this version."""
  os.chdir(ROOT)
  sys.argv = ["tests/releases/make.py"]  # What the runs' records say.
  folder = pathlib.Path("tests/releases") / t5x_lite.__version__
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  corpus = folder / "corpus.txt"
  lines = (f"Line {i} says that {i} and {i} make {2 * i}." for i in range(40))
  corpus.write_text("\n".join(lines) + "\n")
  for kind in KINDS:
    (folder / kind).mkdir()
    make(kind, folder / kind, corpus)


if __name__ == "__main__":
  make_all()
