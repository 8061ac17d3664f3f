"""Commands that read and write text load neither TensorFlow nor seqio."""

import json
import subprocess
import sys

import pytest

from launch import config, gin_errors, gin_slice, main, session
from t5x_lite.training.run import Run
from tests.launch.test_mistakes import write_hf

HEAVY = {
  "tensorflow", "tensorflow_text", "seqio", "tasks", "torch", "transformers",
  "matplotlib", "sklearn", "scipy.stats",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("light")
  write_hf(folder / "hf")
  arguments = [f"--input={folder}/hf", "--to=run", f"--output={folder}/run"]
  assert main.main(["convert", *arguments]) == 0
  return folder / "run"


def commands(run):
  directory = f"--model_dir={run}"
  return [
    ["infer", directory, "--text=a ___ b", "--max_new_tokens=3", "--json"],
    ["infer", directory, "--text=a", "--max_new_tokens=3", "--json",
     "--gin.run.Run.sampler=@samplers.Sample()", "--seed=4"],
    ["score", directory, "--inputs=a", "--targets=b", "--json"],
    ["inspect-activations", directory, "--text=a", "--targets=b", "--json"],
    ["describe", directory, "--json"],
  ]  # fmt: skip


def alone(commands):
  """Runs commands in a process; returns what they print, and its modules."""
  code = (
    "import sys; from launch import main\n"
    f"for words in {commands!r}:\n  assert main.main(words) == 0\n"
    "print(*sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  *printed, modules = done.stdout.splitlines()
  return printed, set(modules.split())


@pytest.mark.slow
def test_text_needs_no_tensorflow_and_comes_out_the_same(run, capsys):
  printed, modules = alone(commands(run))
  assert not HEAVY & modules
  # Without the record, as of an earlier version, the task itself is loaded.
  path = run / "vocabulary.json"
  record = path.read_text()
  content = json.loads(record)
  for name in ("features", "delimiters", "vocabulary"):
    del content[name]
  path.write_text(json.dumps(content))
  try:
    capsys.readouterr()
    for words in commands(run)[:-1]:
      assert main.main(words) == 0
  finally:
    path.write_text(record)
  assert capsys.readouterr().out.splitlines() == printed[:-1]


def test_a_hugging_face_directory_needs_no_tensorflow_either(run):
  printed, modules = alone(commands(run.parent / "hf")[:1])
  assert not HEAVY & modules
  assert json.loads(printed[0])["text"] == "a <extra_id_0> b"


CONFIG = """from __gin__ import dynamic_registration
from t5x_lite import data
from t5x_lite import model
from t5x_lite.nn import transformer
from t5x_lite.optim import optimizers
from t5x_lite.training import run
from tasks import text
import mine

INPUTS = 5
OTHER = 6
WIDTH = 7

text.text_task.files = 'a'
data.Data.lengths = {'inputs': %INPUTS}
data.Data.task = @text.text_task()
held_out/data.Data.split = %OTHER
optimizers.AdamW.peak = 1.0
model.Model.transformer = @transformer.Transformer()
transformer.Transformer.width = %WIDTH
encoder/transformer.Transformer.encoder = @mine.Stack()
run.Run.model = @model.Model()
run.Run.optimizer = @optimizers.AdamW()
run.Run.eval = [@held_out/data.Data()]
run.Run.train = @data.Data()
"""


def sliced(text):
  from launch import recorded_gin

  statements = list(recorded_gin._statements(text, "config.gin"))
  return gin_slice.take(text, statements, session._OF_TEXT)


def test_only_what_a_model_needs_is_read_of_its_gin():
  found = sliced(CONFIG)
  lines, kept = CONFIG.splitlines(), found.splitlines()
  for old, new in zip(lines, kept[: len(lines)], strict=True):
    assert new in (old, "")  # A statement stays in its line, or is left out.
  gone = {old for old, new in zip(lines, kept, strict=False) if old != new}
  assert gone == {
    "from t5x_lite.optim import optimizers", "from tasks import text",
    "OTHER = 6", "text.text_task.files = 'a'",
    "data.Data.task = @text.text_task()",
    "held_out/data.Data.split = %OTHER", "optimizers.AdamW.peak = 1.0",
    "run.Run.optimizer = @optimizers.AdamW()",
    "run.Run.eval = [@held_out/data.Data()]",
  }  # fmt: skip
  # The model needs a module of the user's own, but not the task.
  assert "import mine" in kept
  assert kept[-1] == "data.Data.task = 'recorded'"


def test_a_module_of_others_needs_consent_even_where_it_is_not_needed(tmp_path):
  path = tmp_path / "config.gin"
  lines = CONFIG.splitlines(keepends=True)
  path.write_text("".join(x for x in lines if "mine.Stack" not in x))
  with pytest.raises(gin_errors.ConfigError, match="--allow_import=mine"):
    config.load(recorded=path, needed=session._OF_TEXT)
  config.load()


def test_flags_that_change_the_task_read_all_of_a_run(run, capsys):
  def whole(*bindings):
    values = session_values(run, bindings)
    return not session._changes_little(values)

  assert not whole() and not whole("run.Run.layout=@layout.Layout()")
  assert not whole('data.Data.lengths={"inputs": 8, "targets": 8}')
  assert whole("data.Data.task=python_docs_causal_lm")
  assert whole("text.corpus_task.corpus=a") and whole("CORPUS=a")
  assert whole("run.Run.eval=[@mine.Data()]")
  arguments = [f"--model_dir={run}", "--text=a", "--max_new_tokens=2"]
  other = "--gin.data.Data.task=python_docs_span_corruption"
  assert main.main(["infer", *arguments, other]) == 2
  assert "was trained with the vocabulary of" in capsys.readouterr().err


def session_values(run, bindings):
  from launch import infer, options

  values = options.flags_of("infer", infer)
  flags = [f"--gin.{binding}" for binding in bindings]
  options.parse("infer", values, [f"--model_dir={run}", *flags])
  return values


def test_the_slice_builds_the_model_of_the_whole(run):
  config.load(recorded=run / "config.gin", needed=session._OF_TEXT)
  part = config.bound(Run)
  config.load(recorded=run / "config.gin")
  whole = config.build(Run)
  for name in ("model", "sampler", "constraints", "layout"):
    assert part.get(name, getattr(whole, name)) == getattr(whole, name), name
  assert part["train"].lengths == whole.train.lengths
