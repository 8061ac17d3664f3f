"""Registers tasks over TensorFlow Datasets and Hugging Face `datasets`.

C4: `tfds_task(dataset="c4/en:3.1.0", objective=SpanCorruption(), ...)`.
WMT: `tfds_task(dataset="wmt_t2t_translate/de-en:1.0.0", objective=TextToText(
inputs="translate English to German: {en}", targets="{de}"), ...)`.
GLUE: `hf_task(path="nyu-mll/glue", config="sst2", objective=TextToText(
inputs="sst2 sentence: {sentence}", targets="{label}",
labels={"label": ("negative", "positive")}), ...)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_lite.files.near_names import did_you_mean, near
from tasks import cache, sources, vocabularies
from tasks.task import Objective, add_task


def tfds_task(
  *,
  name: str,
  dataset: str,
  objective: Objective,
  vocabulary: seqio.Vocabulary | str,
  splits: Mapping[str, str] | Sequence[str] = ("train", "validation"),
  data_dir: str | None = None,
  text: str = "text",
) -> str:
  """Registers a task over a TFDS dataset and returns its name.

  Args:
    name: the task's name.
    dataset: the dataset with config and version, "c4/en:3.1.0".
    objective: how documents become examples.
    vocabulary: "bytes", the path of a SentencePiece model, or a seqio
      vocabulary.
    splits: names of splits, or {name: TFDS split}, such as {"validation":
      "train[:1%]"}.
    data_dir: the folder of TFDS's datasets, local or gs://; None means TFDS's
      default.
    text: the field with the documents' text.
  """
  if ":" not in dataset:
    raise ValueError(
      f"dataset ({dataset!r}) must state a version, as in 'c4/en:3.1.0'"
    )
  return add_task(
    name,
    source=TfdsText(dataset, splits=splits, data_dir=data_dir, text=text),
    objective=objective,
    vocabulary=vocabularies.resolve(vocabulary),
  )


def hf_task(
  *,
  name: str,
  path: str,
  objective: Objective,
  vocabulary: seqio.Vocabulary | str,
  config: str | None = None,
  splits: Mapping[str, str] | Sequence[str] = ("train", "validation"),
  data_files: str | Sequence[str] | Mapping[str, str] | None = None,
  revision: str | None = None,
  text: str = "text",
) -> str:
  """Registers a task over a Hugging Face dataset and returns its name.

  Args:
    name: the task's name.
    path: the dataset's name on the hub, or a format of local files: "parquet",
      "arrow", "json", "csv".
    objective: how documents become examples.
    vocabulary: "bytes", the path of a SentencePiece model, or a seqio
      vocabulary.
    config: the dataset's configuration ("sst2" of GLUE).
    splits: names of splits, or {name: dataset split}, such as {"validation":
      "train[:1%]"}.
    data_files: if `path` is a format, the files: {split: files}, or files of
      "train".
    revision: the commit or tag of the dataset on the hub.
    text: the field with the documents' text.
  """
  source = HuggingFaceText(
    path,
    config=config,
    splits=splits,
    data_files=data_files,
    revision=revision,
    text=text,
  )
  return add_task(
    name,
    source=source,
    objective=objective,
    vocabulary=vocabularies.resolve(vocabulary),
  )


class TfdsText(seqio.TfdsDataSource):
  """Reads a TFDS dataset, and copies the field `text` to "text"."""

  def __init__(
    self,
    dataset: str,
    *,
    splits: Mapping[str, str] | Sequence[str],
    data_dir: str | None = None,
    text: str = "text",
  ):
    self._text = text
    self._recipe = (dataset, tuple(_split_map(splits).items()), data_dir, text)
    super().__init__(dataset, tfds_data_dir=data_dir, splits=_split_map(splits))

  def get_dataset(self, *args, **options) -> tf.data.Dataset:
    try:
      dataset = super().get_dataset(*args, **options)
    except tfds.core.DatasetNotFoundError:  # Its message lists all datasets.
      name = self._recipe[0]
      stem = re.split("[/:]", name)[0]
      raise ValueError(
        f"no TFDS dataset {name!r}, and none in data_dir {self._recipe[2]!r}"
        f"{did_you_mean(near(stem, tfds.list_builders()))}"
      ) from None
    return dataset.map(lambda example: _rename(example, self._text))

  def __eq__(self, other) -> bool:
    return isinstance(other, TfdsText) and self._recipe == other._recipe

  def __hash__(self) -> int:
    return hash(self._recipe)


class HuggingFaceText(sources.LazySource):
  """Reads a Hugging Face dataset into memory or into record files.

  The examples are copied once, because a TensorFlow iterator over `datasets`
  runs Python code and cannot be checkpointed. Only texts and numbers are kept;
  a missing text becomes "", a missing integer -1, a missing float NaN.
  """

  def __init__(
    self,
    path: str,
    *,
    config: str | None = None,
    splits: Mapping[str, str] | Sequence[str] = ("train", "validation"),
    data_files: str | Sequence[str] | Mapping[str, str] | None = None,
    revision: str | None = None,
    text: str = "text",
  ):
    self._path = path
    self._config = config
    self._splits_map = _split_map(splits)
    self._data_files = data_files
    self._revision = revision
    self._text = text
    name = f"{path}/{config}" if config else path
    super().__init__(name, tuple(self._splits_map))

  def recipe(self) -> tuple:
    return (
      self._path,
      self._config,
      tuple(self._splits_map.items()),
      repr(self._data_files),
      self._revision,
      self._text,
    )

  def make(self) -> sources.MemorySource | sources.RecordSource:
    tables = {
      split: self._load(name) for split, name in self._splits_map.items()
    }
    rows = (
      (split, _rename(row, self._text))
      for split, table in tables.items()
      for row in _rows(table)
    )
    size = sum(table.data.nbytes for table in tables.values())
    if size > sources.MEMORY_BYTES:
      prints = [table._fingerprint for table in tables.values()]
      key = cache.digest([repr(self.recipe()), *prints])
      return sources.write_records(self.name, key, rows)
    columns = {split: {} for split in tables}
    for split, row in rows:
      for key, value in row.items():
        columns[split].setdefault(key, []).append(value)
    return sources.MemorySource(self.name, columns)

  def _load(self, split: str):
    try:
      import datasets
    except ImportError:
      raise ValueError(
        f"reading {self._path!r} needs the package `datasets`: "
        "pip install 't5x_lite[hf]'"
      ) from None
    try:
      return datasets.load_dataset(
        self._path,
        self._config,
        split=split,
        data_files=self._data_files,
        revision=self._revision,
      )
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
      first_line = (str(error).splitlines() or [type(error).__name__])[0]
      raise ValueError(
        f"cannot load split {split!r} of {self._path!r}: {first_line}"
      ) from None


def _split_map(splits: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
  if isinstance(splits, str):
    splits = (splits,)
  return dict(splits) if isinstance(splits, Mapping) else {s: s for s in splits}


def _rename(example: Mapping, text: str) -> Mapping:
  if text == "text" or text not in example:
    return example
  return {**example, "text": example[text]}


def _rows(table) -> Iterator[dict]:
  """Yields the rows of a table: texts and numbers, nested names with "/"."""
  defaults = _defaults(table.features)
  for row in table:
    flat = {}
    for key, default in defaults.items():
      value = row
      for part in key.split("/"):
        value = value[part] if value is not None else None
      flat[key] = default if value is None else value
    yield flat


def _defaults(features: Mapping, prefix: str = "") -> dict:
  """Returns the default value of each field that is a text or a number."""
  import datasets

  defaults = {}
  for name, feature in features.items():
    key = prefix + name
    if isinstance(feature, Mapping):
      defaults |= _defaults(feature, f"{key}/")
    elif isinstance(feature, datasets.Translation):
      defaults |= {f"{key}/{language}": "" for language in feature.languages}
    elif isinstance(feature, datasets.ClassLabel):
      defaults[key] = -1
    elif isinstance(feature, datasets.Value):
      if feature.dtype in ("string", "large_string"):
        defaults[key] = ""
      elif feature.dtype.startswith(("int", "uint", "bool")):
        defaults[key] = -1
      elif feature.dtype.startswith("float"):
        defaults[key] = float("nan")
  return defaults
