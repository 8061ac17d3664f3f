"""Tasks over TFDS and Hugging Face datasets, made small for the test."""

import importlib.util
import json

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from tasks import external, sources
from tasks.causal_lm import CausalLM
from tasks.text_to_text import TextToText
from tests.tasks.streams import BYTES

HAS_DATASETS = importlib.util.find_spec("datasets") is not None

SST2 = TextToText(
  inputs="sst2 sentence: {sentence}",
  targets="{label}",
  labels={"label": ("negative", "positive")},
)
WMT = TextToText(
  inputs="translate German to English: {translation/de}",
  targets="{translation/en}",
)
LENGTHS = {"inputs": 64, "targets": 32}


pytestmark = pytest.mark.usefixtures("no_new_tasks")


def stored(folder, name, features, rows):
  """Writes a TFDS dataset with the splits train and validation."""
  version = "1.0.0"
  path = folder / name / version
  path.mkdir(parents=True)
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=name, version=version, data_dir=str(path), module_name=__name__
  )
  info = tfds.core.DatasetInfo(
    builder=identity, features=tfds.features.FeaturesDict(features)
  )
  writer = tfds.core.SequentialWriter(info, max_examples_per_shard=100)
  splits = {"train": rows, "validation": rows[:2]}
  writer.initialize_splits(list(splits))
  writer.add_examples(splits)
  writer.close_all()
  return f"{name}:{version}"


def rows_of(name, split="train", lengths=LENGTHS):
  task = seqio.get_mixture_or_task(name)
  dataset = task.get_dataset(lengths, split, shuffle=False, seed=0)
  return list(dataset.as_numpy_iterator())


def decoded(row, key):
  return BYTES.decode(row[key])


def test_tfds_documents_as_of_c4(tmp_path):
  dataset = stored(
    tmp_path,
    "tiny_c4",
    {"text": tfds.features.Text(), "url": tfds.features.Text()},
    [{"text": f"page {i}", "url": "http://x"} for i in range(5)],
  )
  name = external.tfds_task(
    name="tiny_c4",
    dataset=dataset,
    data_dir=str(tmp_path),
    objective=CausalLM(),
    vocabulary=BYTES,
  )
  (row,) = rows_of(name, lengths={"targets": 40})
  ends = np.flatnonzero(row["targets"] == 1)
  assert len(ends) == 5
  assert decoded(row, "targets") == "page 0"
  assert len(rows_of(name, "validation", {"targets": 40})) == 1


def test_tfds_classification_as_of_glue(tmp_path):
  dataset = stored(
    tmp_path,
    "tiny_sst2",
    {
      "sentence": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=["negative", "positive"]),
    },
    [
      {"sentence": "A fine film.", "label": 1},
      {"sentence": "A dull one.", "label": 0},
      {"sentence": "Not labelled.", "label": -1},
    ],
  )
  name = external.tfds_task(
    name="tiny_sst2",
    dataset=dataset,
    data_dir=str(tmp_path),
    splits={"train": "train", "test": "validation[:1]"},
    objective=SST2,
    vocabulary=BYTES,
  )
  rows = rows_of(name)
  assert decoded(rows[0], "inputs") == "sst2 sentence: A fine film."
  labels = [decoded(row, "targets") for row in rows]
  assert labels == ["positive", "negative", "<unk>"]
  assert all(row["inputs"][-1] == row["targets"][-1] == 1 for row in rows)
  assert rows[0]["targets_pretokenized"] == b"positive"
  assert len(rows_of(name, "test")) == 1
  with pytest.raises(ValueError, match="no split 'validation': it has 'train'"):
    rows_of(name, "validation")


def test_a_tfds_dataset_needs_a_version():
  with pytest.raises(ValueError, match="'c4/en'. must state a version"):
    external.tfds_task(
      name="x", dataset="c4/en", objective=CausalLM(), vocabulary=BYTES
    )


def test_an_unknown_tfds_dataset_gets_a_proposal_in_one_line(tmp_path):
  source = external.TfdsText(
    "wmt14_translat:1.0.0", splits=["train"], data_dir=str(tmp_path)
  )
  with pytest.raises(ValueError, match="did you mean wmt14_translate") as error:
    source.get_dataset("train")
  assert "\n" not in str(error.value)


def json_task(tmp_path, name, records, objective, **options):
  path = tmp_path / f"{name}.jsonl"
  path.write_text("\n".join(map(json.dumps, records)))
  return external.hf_task(
    name=name,
    path="json",
    data_files=str(path),
    splits=["train"],
    objective=objective,
    vocabulary=BYTES,
    **options,
  )


SENTENCES = [
  {"sentence": "A fine film.", "label": 1, "tags": ["x"]},
  {"sentence": None, "label": 0, "tags": []},
]
PAIRS = [{"translation": {"de": "Guten Tag", "en": "Good day"}}]

if HAS_DATASETS:

  @pytest.mark.parametrize("memory_bytes", [sources.MEMORY_BYTES, 1])
  def test_hugging_face_examples(tmp_path, memory_bytes, monkeypatch):
    monkeypatch.setattr(sources, "MEMORY_BYTES", memory_bytes)
    name = json_task(tmp_path, "hf_sst2", SENTENCES, SST2)
    rows = {decoded(r, "inputs"): decoded(r, "targets") for r in rows_of(name)}
    assert rows == {
      "sst2 sentence: A fine film.": "positive",
      "sst2 sentence: ": "negative",
    }

  def test_hugging_face_nested_fields_as_of_wmt(tmp_path):
    name = json_task(tmp_path, "hf_wmt", PAIRS, WMT)
    (row,) = rows_of(name)
    assert decoded(row, "inputs") == "translate German to English: Guten Tag"
    assert decoded(row, "targets") == "Good day"

  def test_hugging_face_documents_under_another_name(tmp_path):
    name = json_task(
      tmp_path, "hf_text", SENTENCES[:1], CausalLM(), text="sentence"
    )
    (row,) = rows_of(name, lengths={"targets": 40})
    assert decoded(row, "targets") == "A fine film."

  def test_an_unknown_split_is_said_in_a_line(tmp_path):
    source = external.HuggingFaceText(
      "json", splits=["valid"], data_files=str(tmp_path / "none.jsonl")
    )
    with pytest.raises(ValueError, match="cannot load split 'valid' of 'json'"):
      source.make()

else:

  def test_without_the_package_the_extra_is_named(tmp_path):
    name = json_task(tmp_path, "hf_sst2", SENTENCES, SST2)
    with pytest.raises(ValueError, match=r"pip install 't5x_lite\[hf\]'"):
      rows_of(name)


def test_a_template_of_a_field_that_is_not_there_is_refused():
  columns = {"train": {"text": ["a"], "title": ["b"]}}
  dataset = sources.MemorySource("s", columns).get_dataset("train")
  with pytest.raises(
    ValueError, match="the field 'translation/de', but .* text"
  ):
    WMT.preprocessors()[0](dataset)


def test_a_template_without_a_field_is_refused():
  with pytest.raises(ValueError, match="has no field"):
    TextToText(inputs="a", targets="{b}")


def test_documents_without_text_are_refused():
  columns = {"train": {"sentence": ["a"]}}
  dataset = sources.MemorySource("s", columns).get_dataset("train")
  features = CausalLM().output_features(BYTES)
  with pytest.raises(ValueError, match="a field 'text', .* have 'sentence'"):
    CausalLM().preprocessors()[0](dataset, output_features=features)


def test_long_examples_are_cut_before_the_end():
  columns = {"train": {"a": ["abcdefgh"], "n": [7]}}
  source = sources.MemorySource("s", columns)
  name = external.add_task(
    "long_examples",
    source=source,
    objective=TextToText(inputs="{a}{n}", targets="{n}"),
    vocabulary=BYTES,
  )
  (row,) = rows_of(name, lengths={"inputs": 5, "targets": 5})
  assert decoded(row, "inputs") == "abcd"
  assert row["inputs"][-1] == 1
  assert decoded(row, "targets") == "7"
