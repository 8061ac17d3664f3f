"""What is registered by name, and that registering it costs nothing."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import seqio

import tasks  # noqa: F401 - registers.
from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from tasks import mixtures, sources
from tasks.causal_lm import CausalLM
from tasks.task import add_task
from tests.tasks.streams import BYTES

LENGTHS = {
  "inputs": 64, "targets": 64, "weights": 64, "positions": 64,
  "token_types": 64, "next_sentence": 1,
}  # fmt: skip


@pytest.mark.parametrize("corpus", ["python_docs", "python_source", "python"])
@pytest.mark.parametrize("objective", mixtures.OBJECTIVES)
def test_every_corpus_has_every_objective_and_both_splits(corpus, objective):
  provider = seqio.get_mixture_or_task(f"{corpus}_{objective}")
  assert set(provider.splits) == {"train", "validation"}


@pytest.mark.parametrize(
  "name",
  [
    "python_prefix_lm",
    *(f"python_docs_{name}" for name in mixtures.OBJECTIVES),
  ],
)
def test_examples_fit_their_lengths(name):
  provider = seqio.get_mixture_or_task(name)
  lengths = {key: LENGTHS[key] for key in provider.output_features}
  dataset = provider.get_dataset(lengths, "validation", seed=0, num_epochs=1)
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


@pytest.fixture
def two_sizes():
  """Tasks of 10 and of 1,000 documents, in the registry until the test ends."""
  before = set(seqio.TaskRegistry.names()) | set(seqio.MixtureRegistry.names())
  for name, size in (("few", 10), ("many", 1000)):
    columns = {"train": {"text": [name[0] * 9] * size}}
    source = sources.MemorySource(name, columns)
    add_task(name, source=source, objective=CausalLM(), vocabulary=BYTES)
  yield ["few", "many"]
  for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
    for name in set(registry.names()) - before:
      registry.remove(name)


@pytest.mark.parametrize("maximum", [None, 100])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_rates_by_examples_are_those_of_t5(two_sizes, maximum, temperature):
  rates = mixtures.ByExamples(maximum=maximum, temperature=temperature)
  mixture = seqio.MixtureRegistry.get(
    mixtures.mix(tasks=two_sizes, rates=rates)
  )
  for task in mixture.tasks:
    expected = seqio.mixing_rate_num_examples(
      task, maximum=maximum, temperature=temperature
    )
    assert mixture.get_rate(task) == pytest.approx(expected)


@pytest.mark.parametrize(
  ("rates", "share"),
  [([1, 3], 0.25), (mixtures.ByExamples(temperature=2), 1 / (1 + 10))],
)
def test_tasks_are_drawn_at_their_rates(two_sizes, rates, share):
  name = mixtures.mix(tasks=two_sizes, rates=rates)
  assert mixtures.mix(tasks=two_sizes, rates=rates) == name  # No error.
  spec = Data(task=name, lengths={"targets": 10}, batch_size=100)
  drawn = np.concatenate(
    [
      batch["decoder_target_tokens"][:, 0]
      for batch in itertools.islice(
        Reader(spec, row_formats.CAUSAL).batches(), 30
      )
    ]
  )
  counts = [(drawn == BYTES.encode(letter)[0]).sum() for letter in "fm"]
  assert sum(counts) == 3000
  expected = np.array([share, 1 - share]) * 3000
  assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"rates": [1]}, r"rates \(\[1\]\) must have one number for each of 2"),
    ({"tasks": ["few", "few"], "rates": [1, 2]}, "few, few.* be distinct"),
    ({"tasks": ["few", "fewer"]}, "names 'fewer', which is not a task"),
    (
      {"tasks": ["few", "python_docs_ul2"]},
      "same features, but few has targets and python_docs_ul2 has inputs, targ",
    ),
  ],
)
def test_mixtures_without_sense_are_refused(two_sizes, changes, message):
  with pytest.raises(ValueError, match=message) as error:
    mixtures.mix(**({"tasks": two_sizes} | changes))
  assert "\n" not in str(error.value)


def test_importing_reads_no_corpus_and_trains_no_vocabulary(
  tmp_path, tmp_path_factory
):
  code = (
    "import time, seqio, tensorflow_text; start = time.process_time(); "
    "import tasks; seconds = time.process_time() - start; "
    "tasks.mixtures.register(); assert seconds < 1, seconds"
  )
  environment = os.environ | {
    "XDG_CACHE_HOME": str(tmp_path),
    # Keras imports matplotlib, which keeps a folder of its own.
    "MPLCONFIGDIR": str(tmp_path_factory.mktemp("matplotlib")),
  }
  subprocess.run([sys.executable, "-c", code], env=environment, check=True)
  assert not list(tmp_path.iterdir())
