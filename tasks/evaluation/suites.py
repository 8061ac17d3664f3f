"""Registers the tasks of a published benchmark, and their mixture.

  data.Data.task = @suites.suite()
  suites.suite.name = "glue"
  suites.suite.vocabulary = "cc_all.32000.100extra/sentencepiece.model"

The examples come from TensorFlow Datasets, or from JSON Lines with the same
fields: FOLDER/glue_cola/train.jsonl and so on, with any suffix, and compressed
or not. `evaluate` evaluates each task separately.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import seqio

from t5x_lite.files.near_names import did_you_mean, near
from tasks import external, vocabularies
from tasks.evaluation import choices, generation, glue, json_rows
from tasks.evaluation.benchmark import Benchmark
from tasks.mixtures import ByExamples, add_mixture
from tasks.task import add_task

_TRAIN_AND_VALIDATION = {"train": "train", "validation": "validation"}
_ALL = {**_TRAIN_AND_VALIDATION, "test": "test"}
# The limit of T5's mixtures: section 3.5.2 of Raffel et al. 2020.
_BY_EXAMPLES = ByExamples(maximum=2**19)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """Describes one task of a suite.

  Attributes:
    benchmark: the format and the metrics.
    dataset: the TFDS dataset with its version; None if TFDS does not have it.
    splits: {our split: the dataset's split}.
  """

  benchmark: Benchmark
  dataset: str | None
  splits: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: _TRAIN_AND_VALIDATION
  )


def _glue() -> Mapping[str, Entry]:
  entries = {
    f"glue_{name}": Entry(benchmark=benchmark, dataset=f"glue/{name}:2.0.0")
    for name, benchmark in glue.GLUE.items()
    if not name.startswith("mnli")
  }
  for name, splits in {
    "mnli": {"train": "train", "validation": "validation_matched"},
    "mnli_mismatched": {"validation": "validation_mismatched"},
  }.items():
    entries[f"glue_{name}"] = Entry(
      benchmark=glue.GLUE[name], dataset="glue/mnli:2.0.0", splits=splits
    )
  return entries


def _super_glue() -> Mapping[str, Entry]:
  entries = {
    f"super_glue_{name}": Entry(
      benchmark=benchmark, dataset=f"super_glue/{name}:1.0.2"
    )
    for name, benchmark in glue.SUPER_GLUE.items()
    if not name.startswith("wsc")
  }
  for name, split in {"wsc_train": "train", "wsc": "validation"}.items():
    entries[f"super_glue_{name}"] = Entry(
      benchmark=glue.SUPER_GLUE[name],
      dataset="super_glue/wsc.fixed:1.0.2",
      splits={split: split},
    )
  return entries


def _wmt() -> Mapping[str, Entry]:
  pairs = {
    "wmt_ende": ("de", "wmt_t2t_translate/de-en:1.0.0"),
    "wmt_enfr": ("fr", "wmt15_translate/fr-en:1.0.0"),
    "wmt_enro": ("ro", "wmt16_translate/ro-en:1.0.0"),
  }
  return {
    name: Entry(
      benchmark=generation.translation("en", language),
      dataset=dataset,
      splits=_ALL,
    )
    for name, (language, dataset) in pairs.items()
  }


SUITES: Mapping[str, Mapping[str, Entry]] = {
  "glue": _glue(),
  "super_glue": _super_glue(),
  "squad": {
    "squad_v1": Entry(benchmark=generation.SQUAD, dataset="squad/v1.1:3.0.0")
  },
  "cnn_dailymail": {
    "cnn_dailymail_v3": Entry(
      benchmark=generation.CNN_DAILYMAIL,
      dataset="cnn_dailymail:3.4.0",
      splits=_ALL,
    )
  },
  "wmt": _wmt(),
  "mmlu": {
    "mmlu_all": Entry(
      benchmark=choices.MMLU,
      dataset=None,
      splits={"validation": "validation", "test": "test"},
    )
  },
  "arc": {
    f"arc_{name.lower()}": Entry(
      benchmark=choices.ARC,
      dataset=f"ai2_arc/ARC-{name}:1.0.0",
      splits={"validation": "validation", "test": "test"},
    )
    for name in ("Easy", "Challenge")
  },
  "hellaswag": {
    "hellaswag_all": Entry(
      benchmark=choices.HELLASWAG,
      dataset="hellaswag:1.1.0",
      splits={"validation": "validation"},
    )
  },
  "lambada": {
    "lambada_all": Entry(
      benchmark=generation.LAMBADA, dataset="lambada:1.0.0", splits=_ALL
    )
  },
}


def suite(
  *,
  name: str,
  vocabulary: seqio.Vocabulary | str,
  data_dir: str | None = None,
  files: str | None = None,
  only: Sequence[str] | None = None,
) -> str:
  """Registers a suite's tasks and their mixture, and returns its name.

  Args:
    name: one of `SUITES`.
    vocabulary: as for `external.tfds_task`.
    data_dir: the folder of TFDS's datasets; None means TFDS's default.
    files: a folder with TASK/SPLIT.jsonl, instead of TFDS.
    only: some tasks of the suite; None takes all.

  Returns:
    The mixture's name, which is the suite's. Tasks are mixed in proportion to
    their number of training examples, capped at 2 ** 19.
  """
  entries = _entries(name, only)
  vocabulary = vocabularies.resolve(vocabulary)
  for task, entry in entries.items():
    if files is not None:
      source = json_rows.JsonRows(
        task, json_rows.find(files, task), entry.benchmark.read_row
      )
    elif entry.dataset is None:
      raise ValueError(
        f"{task} is not in TensorFlow Datasets: set files to a folder with "
        f"{task}/SPLIT.jsonl"
      )
    else:
      source = external.TfdsText(
        entry.dataset, splits=entry.splits, data_dir=data_dir
      )
    add_task(
      task, source=source, objective=entry.benchmark, vocabulary=vocabulary
    )
  rates = {
    # Tasks without a train split are used for evaluation only.
    task: _BY_EXAMPLES
    if "train" in seqio.TaskRegistry.get(task).splits
    else 1.0
    for task in entries
  }
  return add_mixture(name, rates)


def _entries(name: str, only: Sequence[str] | None) -> Mapping[str, Entry]:
  if name not in SUITES:
    raise ValueError(
      f"name ({name!r}) must be one of {', '.join(map(repr, SUITES))}"
      f"{did_you_mean(near(name, SUITES))}"
    )
  entries = SUITES[name]
  unknown = sorted(set(only or ()) - set(entries))
  if unknown:
    raise ValueError(
      f"{name} has no task {unknown[0]!r}: it has {', '.join(entries)}"
    )
  return {task: entries[task] for task in only or entries}
