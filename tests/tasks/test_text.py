"""Users' text: files of every kind, large and small, and their faults."""

import gzip
import json
import os
import pathlib

import gin
import pytest
import seqio

from t5x_lite.files import text_files
from tasks import sentencepiece_training, sources, text
from tasks.causal_lm import CausalLM
from tasks.prefix_lm import PrefixLM
from tasks.text import TextFiles

DOCUMENTS = [f"Document {i},\nof two lines." for i in range(60)]
TEXT = "\n\n".join(DOCUMENTS)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "a.txt").write_text(TEXT)
  (tmp_path / "b.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
  records = [json.dumps({"text": d, "body": d[::-1]}) for d in DOCUMENTS]
  (tmp_path / "c.jsonl").write_text("\n".join(records))
  (tmp_path / "d.jsonl.gz").write_bytes(
    gzip.compress("\n".join(records).encode())
  )
  return tmp_path


@pytest.mark.parametrize("name", ["a.txt", "b.txt.gz", "c.jsonl", "d.jsonl.gz"])
def test_every_format_gives_the_documents(folder, name):
  paths = [str(folder / name)]
  assert list(text_files.read_documents(paths)) == DOCUMENTS


def test_fields_and_ways_of_division(folder):
  def read(name, **options):
    return list(text_files.read_documents([str(folder / name)], **options))

  assert read("c.jsonl", field="body") == [d[::-1] for d in DOCUMENTS]
  lines = [line for line in TEXT.split("\n") if line]
  assert read("a.txt", documents="line") == lines
  assert read("a.txt", documents="file") == [TEXT]
  with pytest.raises(ValueError, match="documents .'page'. must be one of"):
    read("a.txt", documents="page")


@pytest.mark.parametrize("packed", [gzip.compress, bytes])
@pytest.mark.parametrize("name", ["c4-train.00000-of-01024.json.gz", "C4", "T"])
def test_json_lines_are_documents_in_training_and_vocabularies(
  folder, name, packed, monkeypatch
):
  path = str(folder / name)
  (folder / name).write_bytes(packed((folder / "c.jsonl").read_bytes()))
  source = TextFiles(path, validation=0.0)
  assert documents(source, "train") == sorted(DOCUMENTS)
  trained = []
  monkeypatch.setattr(
    sentencepiece_training, "train", lambda texts, **_: trained.extend(texts)
  )
  with pytest.raises(TypeError):  # Of the model that is none.
    sentencepiece_training.train_sentencepiece(
      path, str(folder / "m"), vocab_size=9, report=lambda line: None
    )
  assert trained == DOCUMENTS


def documents(source, split):
  rows = source.get_dataset(split, shuffle=False).as_numpy_iterator()
  return sorted(row["text"].decode() for row in rows)


@pytest.mark.parametrize("memory_bytes", [sources.MEMORY_BYTES, 10])
def test_documents_are_held_out_by_hash_in_memory_and_in_files(
  folder, memory_bytes, monkeypatch
):
  monkeypatch.setattr(sources, "MEMORY_BYTES", memory_bytes)
  source = TextFiles(str(folder / "a.txt"), validation=0.2)
  train, held_out = (documents(source, split) for split in source.splits)
  assert sorted(train + held_out) == sorted(DOCUMENTS)
  assert 4 <= len(held_out) <= 24
  assert source.num_input_examples("train") == len(train)
  kind = sources.MemorySource if memory_bytes > 10 else sources.RecordSource
  assert isinstance(source.made, kind)
  # The same documents are held out of whatever file they are in.
  other = TextFiles(str(folder / "c.jsonl"), validation=0.2)
  assert documents(other, "validation") == held_out


def test_large_text_is_divided_once_sharded_and_shuffled(folder, monkeypatch):
  monkeypatch.setattr(sources, "MEMORY_BYTES", 10)
  path = str(folder / "a.txt")
  TextFiles(path, validation=0.2).make()
  with monkeypatch.context() as patch:
    patch.setattr(
      text_files, "read_documents", None
    )  # Must not be called again.
    source = TextFiles(path, validation=0.2)
    whole = documents(source, "train")
  shards = []
  for index in range(3):
    dataset = source.get_dataset(
      "train", seed=1, shard_info=seqio.ShardInfo(index, 3)
    )
    shards.append([row["text"].decode() for row in dataset.as_numpy_iterator()])
  assert sorted(sum(shards, [])) == whole
  assert "".join(source.training_text(50)).startswith("Document")
  assert sum(map(len, source.training_text(50))) == 50

  dataset = source.get_dataset("train", seed=1).repeat(2)
  rows = [row["text"].decode() for row in dataset.as_numpy_iterator()]
  assert rows[: len(whole)] != rows[len(whole) :]


def test_an_interrupted_division_leaves_nothing(folder, monkeypatch):
  monkeypatch.setattr(sources, "MEMORY_BYTES", 10)
  path = folder / "broken.txt"
  path.write_bytes(TEXT.encode() + b"\n\xff")
  with pytest.raises(ValueError, match="not UTF-8"):
    TextFiles(str(path)).make()
  leftovers = list(sources.cache.directory().glob(".records*"))
  assert not leftovers


def test_bad_lines_are_named_or_skipped_and_counted(tmp_path, warnings):
  path = tmp_path / "a.jsonl"
  good = [json.dumps({"text": f"Text {i}."}).encode() for i in range(4)]
  bad = [b'{"text": "cut', b'{"text": "\xff"}', b'{"body": "none"}', b"[1]"]
  path.write_bytes(b"\n".join(sum(zip(good, bad, strict=True), ())) + b"\n")
  with pytest.raises(ValueError, match=r"a.jsonl, line 2"):
    TextFiles(str(path), validation=0).made  # noqa: B018 - reads.
  source = TextFiles(str(path), validation=0, skip_bad_lines=True)
  assert source.made.columns == {
    "train": {"text": [f"Text {i}." for i in range(4)]}
  }
  (said,) = warnings()
  assert "skipped 4 bad lines; the first: " in said and "line 2" in said
  # Another source than the one that refuses them, which is the default's.
  assert source != TextFiles(str(path), validation=0)


def test_a_file_whose_name_is_no_utf_8_is_refused(tmp_path):
  path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")
  pathlib.Path(path).write_text("a\n\nb\n")
  with pytest.raises(ValueError, match=r"the name of the file .*\\udce9"):
    TextFiles(path).make()


def test_of_few_documents_one_is_held_out(tmp_path):
  path = tmp_path / "few.txt"
  path.write_text("one\n\ntwo\n\nthree")
  source = TextFiles(str(path), validation=0.0001)
  assert len(documents(source, "validation")) == 1
  assert len(documents(source, "train")) == 2


def test_files_of_their_own_may_be_held_out(folder):
  (folder / "held_out.txt").write_text("other")
  source = TextFiles(
    str(folder / "a.txt"), validation=str(folder / "held_out.txt")
  )
  assert documents(source, "validation") == ["other"]
  assert documents(source, "train") == sorted(DOCUMENTS)


@pytest.mark.usefixtures("no_new_tasks")
def test_a_text_task_trains_its_vocabulary_and_gives_examples(folder):
  arguments = {"files": str(folder / "a.txt"), "objective": PrefixLM()}
  name = text.text_task(**arguments)
  assert name.startswith("text_prefix_lm_")
  assert text.text_task(**arguments) == name
  task = seqio.get_mixture_or_task(name)
  vocabulary = task.output_features["targets"].vocabulary
  lengths = {"inputs": 16, "targets": 16}
  for split in ("train", "validation"):
    dataset = task.get_dataset(lengths, split, shuffle=False, seed=0)
    tokens = []
    for row in dataset.as_numpy_iterator():
      tokens += [*row["inputs"].tolist(), *row["targets"].tolist()]
    # Up to the first end of a document.
    assert vocabulary.decode(tokens) in DOCUMENTS


@pytest.mark.usefixtures("no_new_tasks")
def test_other_arguments_are_another_task_and_a_taken_name_is_refused(folder):
  path = str(folder / "a.txt")
  arguments = {"files": path, "vocabulary": "bytes", "objective": PrefixLM()}
  name = text.text_task(**arguments)
  assert text.text_task(**arguments | {"documents": "line"}) != name
  assert text.text_task(**arguments | {"objective": CausalLM()}) != name
  taken = text.text_task(**arguments | {"documents": "file"}, name="taken")
  with pytest.raises(ValueError, match="'taken' .* with another source"):
    text.text_task(**arguments, name=taken)


@pytest.mark.usefixtures("no_new_tasks")
def test_a_corpus_with_the_registered_objective_is_the_registered_task():
  registered = text.corpus_task(corpus="python_docs", objective=CausalLM())
  assert registered == "python_docs_causal_lm"
  own = text.corpus_task(
    corpus="python_docs", objective=CausalLM(), vocabulary="bytes"
  )
  assert own.startswith("python_docs_causal_lm_")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"documents": "page"}, "documents .'page'. must be one of 'blank_line'"),
    ({"validation": 1.5}, "validation .1.5. must be from 0"),
    ({"vocabulary": "x.txt"}, "vocabulary .'x.txt'. must be"),
  ],
)
def test_mistakes_in_arguments_are_explained(arguments, message):
  with pytest.raises(ValueError, match=message):
    text.text_task(files="a.txt", objective=CausalLM(), **arguments)


def test_an_unknown_corpus_gets_a_proposal():
  with pytest.raises(ValueError, match="did you mean python_docs"):
    text.corpus_task(corpus="python_doc", objective=CausalLM())


@pytest.fixture
def clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.mark.usefixtures("no_new_tasks", "clean_gin")
def test_one_gin_file_makes_a_task_of_any_text(folder):
  gin.parse_config(f"""
    from __gin__ import dynamic_registration
    from tasks import prefix_lm
    from tasks import text

    text.text_task.files = "{folder}/*.txt"
    text.text_task.objective = @prefix_lm.PrefixLM()
    text.text_task.vocabulary = "bytes"
    prefix_lm.PrefixLM.prefix_fraction = 0.5

    text.corpus_task.corpus = "python_docs"
    text.corpus_task.objective = @plain/prefix_lm.PrefixLM()
    plain/prefix_lm.PrefixLM.prefix_fraction = None
  """)
  name = gin.get_configurable(text.text_task)()
  task = seqio.get_mixture_or_task(name)
  dataset = task.get_dataset({"inputs": 10, "targets": 10}, seed=0)
  row = next(dataset.as_numpy_iterator())
  assert (len(row["inputs"]), len(row["targets"])) == (10, 10)
  assert gin.get_configurable(text.text_task)() == name
  # What gin builds equals what was registered.
  corpus = gin.get_configurable(text.corpus_task)()
  assert corpus == "python_docs_prefix_lm"
