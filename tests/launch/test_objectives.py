"""Every objective's gin file makes a task, and fits some architecture."""

import pytest

from launch import config, environment
from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.training import run
from tasks import mixtures

FOLDER = config.shipped_folder() / "gin" / "objectives"
FILES = sorted(path.stem for path in FOLDER.glob("*.gin"))
ARCHITECTURES = ("encoder_decoder", "causal", "prefix", "encoder")


def load(*files):
  config.load(files)
  environment.load_tasks()


def fits(spec, architecture) -> bool:
  try:
    Reader(spec, row_formats.ALL[architecture])
  except ValueError:
    return False
  return True


def test_every_objective_has_a_file():
  assert set(mixtures.OBJECTIVES) == set(FILES) - {"mixture"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_makes_a_task_for_the_architectures_that_it_names(name):
  load(f"objectives/{name}.gin")
  spec = Data(**config.bound(Data), batch_size=8)
  about = (FOLDER / f"{name}.gin").read_text()
  expected = {
    "encoder_decoder": "encoder-decoders" in about,
    "causal": "decoders." in about.replace("encoder-decoders.", ""),
    "prefix": "and decoders" in about or "decoders." in about
              or "prefix models" in about,
    "encoder": "For\n# encoders." in about or "For encoders." in about,
  }  # fmt: skip
  assert {a: fits(spec, a) for a in ARCHITECTURES} == expected
  # The file's own objective is one of those that are registered.
  if name in mixtures.OBJECTIVES:
    objective = resolve(spec.task).provider.recipe["objective"]
    assert type(objective) is type(mixtures.OBJECTIVES[name])


def test_stages_are_one_file():
  load("runs/stages.gin")
  built = config.build(run.Run)
  first, second = built.train, built.train.next_stage
  assert first.num_batches == 700 and second.next_stage is None
  held_out = [(spec.task, spec.split, spec.next_stage) for spec in built.eval]
  assert held_out == [
    (first.task, "validation", None),
    (second.task, "validation", None),
  ]
  Reader(first, row_formats.ENCODER_DECODER)


def test_causal_then_non_causal_is_one_file():
  load("runs/causal_then_prefix.gin")
  built = config.build(run.Run)
  assert built.model.row_format.name == "prefix"
  first, second = built.train, built.train.next_stage
  names = [tuple(resolve(x.task).features) for x in (first, second)]
  assert names == [("targets",), ("inputs", "targets")]
  rows = [sum(spec.lengths.values()) for spec in (first, second, *built.eval)]
  assert rows == [256] * 4
  for spec in (first, *built.eval):
    Reader(spec, row_formats.PREFIX)
