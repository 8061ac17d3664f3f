"""What is registered by name, and that registering it costs nothing."""

import os
import subprocess
import sys

import pytest
import seqio

import tasks  # noqa: F401 - registers.
from tasks import mixtures, sources
from tasks.causal_lm import CausalLM
from tasks.task import add_task
from tests.tasks.streams import BYTES

LENGTHS = {"inputs": 64, "targets": 64, "weights": 64}


@pytest.mark.parametrize("corpus", ["python_docs", "python_source", "python"])
@pytest.mark.parametrize("objective", mixtures.OBJECTIVES)
def test_every_corpus_has_every_objective_and_both_splits(corpus, objective):
  provider = seqio.get_mixture_or_task(f"{corpus}_{objective}")
  assert set(provider.splits) == {"train", "validation"}


@pytest.mark.parametrize(
  ("corpus", "split"), [("python", "train"), ("python_docs", "validation")]
)
@pytest.mark.parametrize("objective", mixtures.OBJECTIVES)
def test_examples_fit_their_lengths(corpus, split, objective):
  provider = seqio.get_mixture_or_task(f"{corpus}_{objective}")
  lengths = {key: LENGTHS[key] for key in provider.output_features}
  dataset = provider.get_dataset(lengths, split, seed=0, num_epochs=1)
  row = next(dataset.as_numpy_iterator())
  assert set(lengths) <= set(row)
  for key, length in lengths.items():
    assert 0 < len(row[key]) <= length and row[key].dtype == "int32"


def test_all_registered_tasks_share_one_vocabulary():
  names = [name for name in seqio.TaskRegistry.names() if name[:7] == "python_"]
  vocabularies = {
    seqio.get_mixture_or_task(name).output_features["targets"].vocabulary
    for name in names
    if len(name.split("_")) < 5
  }
  assert len(vocabularies) == 1


def test_a_finite_mixture_ends_with_its_last_task_not_its_first():
  names = []
  try:
    for name, size in (("short_task", 3), ("long_task", 30)):
      columns = {"train": {"text": ["abc"] * size}}
      source = sources.MemorySource(name, columns)
      names.append(
        add_task(name, source=source, objective=CausalLM(), vocabulary=BYTES)
      )
    rates = dict.fromkeys(names, 1.0)
    for _ in range(2):  # A second time is no error.
      mixtures.add_mixture("short_and_long", rates)
    with pytest.raises(ValueError, match="already registered with other rates"):
      mixtures.add_mixture("short_and_long", {names[0]: 1.0})
    dataset = seqio.get_mixture_or_task("short_and_long").get_dataset(
      {"targets": 4}, "train", num_epochs=1, seed=0
    )
    assert len(list(dataset)) == 33
  finally:
    seqio.MixtureRegistry.remove("short_and_long")
    for name in names:
      seqio.TaskRegistry.remove(name)


def test_importing_reads_no_corpus_and_trains_no_vocabulary(tmp_path):
  code = (
    "import time, seqio, tensorflow_text; start = time.process_time(); "
    "import tasks; seconds = time.process_time() - start; "
    "tasks.mixtures.register(); assert seconds < 1, seconds"
  )
  environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
  subprocess.run([sys.executable, "-c", code], env=environment, check=True)
  assert not list(tmp_path.iterdir())
