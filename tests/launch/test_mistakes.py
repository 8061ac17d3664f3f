"""Two hundred mistakes: each is one line that names what to change."""

import contextlib
import dataclasses
import io
import json
import pathlib
import shlex
import shutil
import textwrap

import pytest

from launch import main
from t5x_lite import interop
from tests import tiny
from tests.launch import damage
from tests.launch.test_runs import RUN

NOISE = bytes(range(256)) * 4


def write_here(folder):
  """Writes the files that the commands of the table name."""
  (folder / "corpus.txt").write_text("The cat sat on the mat.\n" * 300)
  (folder / "long.txt").write_text("word " * 500)
  for name in ("empty.txt", "empty.model", "empty.gin", "file"):
    (folder / name).write_text("")
  for name in ("noise.bin", "noise.model"):
    (folder / name).write_bytes(NOISE)
  (folder / "latin.gin").write_bytes(b'X = "caf\xe9"')
  (folder / "tiny.gin").write_text(
    textwrap.dedent(RUN.format(corpus=folder / "corpus.txt"))
    + '\nFILES = "corpus.txt"\ntext.text_task.files = %FILES\n'
  )
  write_hf(folder / "hf")


def write_hf(folder):
  """Writes a T5 of random weights with ByT5's tokenizer."""
  model = tiny.t5()
  transformer = model.transformer.clone(vocab_size=384)
  model = dataclasses.replace(model, transformer=transformer)
  interop.save_hf(model, tiny.random_params(model), folder)
  (folder / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "ByT5Tokenizer"})
  )


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  folder = tmp_path_factory.mktemp("mistakes")
  write_here(folder)
  with contextlib.chdir(folder):
    convert = ["convert", "--input=hf", "--to=run", "--output=run"]
    assert main.main(convert) == 0
    yield folder


def files(folder):
  """Returns the times at which all files below were written."""
  return {
    path: path.stat().st_mtime_ns
    for path in pathlib.Path(folder).rglob("*")
    if path.is_file()
  }


def said(arguments) -> str:
  """Runs a command, which must refuse in one line and write nothing."""
  before, err = files("."), io.StringIO()
  with contextlib.redirect_stderr(err):
    status = main.main(arguments)
  lines = err.getvalue().splitlines()
  assert status == 2, lines
  assert len(lines) == 1, lines
  assert lines[0].startswith("t5x_lite: error: ")
  assert files(".") == before
  return lines[0].removeprefix("t5x_lite: error: ")


@pytest.fixture
def damaged(here):
  """Returns a function that copies the directory with a file replaced."""

  def write(name, content):
    shutil.copytree("hf", "damaged")
    if name.endswith("index.json"):
      pathlib.Path("damaged/model.safetensors").unlink()
    pathlib.Path("damaged", name).write_bytes(content)

  yield write
  shutil.rmtree("damaged")


CONVERT = ["convert", "--input=damaged", "--to=run", "--output=new"]


@pytest.mark.parametrize(
  ("name", "value", "part"), damage.OPTIONS, ids=lambda one: f"{one}"[:40]
)
def test_an_option_without_sense_is_named(name, value, part, damaged):
  options = json.loads(pathlib.Path("hf/config.json").read_text())
  options[name] = value
  damaged("config.json", json.dumps(options).encode())
  assert part in said(CONVERT)


@pytest.mark.parametrize(
  ("name", "content", "part"), damage.FILES, ids=lambda one: f"{one}"[:40]
)
def test_a_damaged_file_is_named(name, content, part, damaged):
  damaged(name, content)
  assert part in said(CONVERT)


def rows():
  """Yields (command line, part of the message) of mistakes.txt."""
  lines = (pathlib.Path(__file__).parent / "mistakes.txt").read_text()
  for line in lines.splitlines():
    flags, arrow, part = line.rpartition(" -> ")
    if line[:1] == "[":
      command = line[1:-1]
    elif arrow:
      yield f"{command} {flags}".strip(), part


ROWS = list(rows())


def test_there_are_two_hundred_mistakes():
  assert len({command for command, _ in ROWS}) == len(ROWS) >= 200


@pytest.mark.parametrize(("command", "part"), ROWS, ids=lambda one: one[:60])
def test_a_mistake_is_one_line_and_nothing_is_written(command, part, here):
  assert part in said(shlex.split(command))
