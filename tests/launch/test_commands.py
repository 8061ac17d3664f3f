"""What single commands print and read."""

import concurrent.futures
import dataclasses
import json
import types

import numpy as np
import pytest
from etils import epath

from launch import describe, infer, main, options, tasks
from launch import eval as evaluate
from t5x_lite.data import Data
from t5x_lite.inference import blanks
from tasks import vocabularies


@pytest.fixture(scope="module")
def vocabulary():
  return vocabularies.Bytes(extra_ids=2)


def test_tokens_that_bear_loss_are_marked(vocabulary):
  ids = [*vocabulary.encode("a bc d"), vocabulary.eos_id]
  marks = [0, 0, 1, 1, 0, 0, 1]
  text = tasks.mark_text(vocabulary, ids, marks, style=("[[", "]]"))
  assert text == "a [[bc]] d [[</s>]]"


def test_sentinels_and_inner_ends_are_spelt_out(vocabulary):
  ids = vocabulary.encode("a<extra_id_0>")
  ids = [*ids, vocabulary.eos_id, *vocabulary.encode("b")]
  assert tasks.mark_text(vocabulary, ids) == "a<extra_id_0> </s> b"


def test_a_character_of_several_tokens_shows_once(vocabulary):
  ids = vocabulary.encode("né!")
  text = tasks.mark_text(vocabulary, ids, [0, 0, 1, 1], style=("[[", "]]"))
  assert text == "n[[é!]]"


def test_blanks_become_sentinels():
  mark = blanks.SENTINELS.mark
  assert mark("a ___ b ____.") == "a <extra_id_0> b <extra_id_1>."
  assert mark("a __init__ b") == "a __init__ b"
  assert mark("<extra_id_0> ___") == "<extra_id_0> ___"
  # Of GLM, the number is the kind of blank.
  mark = blanks.KINDS["spans"].mark
  assert mark("___ a ___") == "<extra_id_0> a <extra_id_0>"


def test_fill_ins_and_continuations_read_well():
  common = {"log_likelihood": -1.25, "text": "a <extra_id_0> c"}
  filled = {**common, "prediction": "<extra_id_0> b", "filled": "a b c"}
  assert "a <extra_id_0> c\n  -> a b c\n" in infer._show(filled)
  continued = {**common, "prediction": "d"}
  assert "  -> a <extra_id_0> c d\n" in infer._show(continued)


def test_evaluations_that_end_together_are_all_there(tmp_path):
  path = epath.Path(tmp_path) / "eval-3.json"

  def add(number):
    for i in range(5):
      result = {"of": {"task": f"{number}-{i}"}, "metrics": {"loss": 1.0}}
      evaluate._add(path, 3, [result])

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(add, range(4)))
  results = json.loads(path.read_text())["results"]
  assert len({result["of"]["task"] for result in results}) == 20
  assert [entry.name for entry in tmp_path.iterdir()] == ["eval-3.json"]


def test_the_table_of_an_evaluation_compares_with_the_unigram_entropy():
  metrics = {"a/loss": 2.5, "a/unigram_entropy": 4.75, "a/tokens": 16384.0}
  lines = evaluate._table(metrics, "eval-1.json").splitlines()
  assert lines[0] == "a" and lines[3].split() == ["tokens", "16,384"]
  assert "2.25 nats per token below the unigram entropy" in lines[4]


def test_a_run_in_stages_is_evaluated_on_the_held_out_text_of_each():
  second = Data(task="b", lengths={"targets": 8}, batch_size=2)
  first = dataclasses.replace(
    second, task="a", num_batches=7, next_stage=second
  )
  run = types.SimpleNamespace(train=first, eval=())
  flags = {"task": [], "split": None, "num_batches": None}
  specs = evaluate._specs(run, types.SimpleNamespace(**flags))
  expected = {
    "split": "validation", "shuffle": False, "num_epochs": 1,
    "num_batches": None, "next_stage": None,
  }  # fmt: skip
  assert specs == [
    dataclasses.replace(second, task=task, **expected) for task in "ab"
  ]


def test_what_fills_a_blank_is_marked():
  marks = ("[", "]")
  given = "a <extra_id_0> c, un<extra_id_1>able"
  filled = "a b c, unbelievable"
  assert infer.mark_blanks(given, filled, marks) == "a [b] c, un[believ]able"
  assert infer.mark_blanks("é <extra_id_0>", "e b", marks) == "e b"


def test_lengths_are_read():
  assert options.parse_lengths(["inputs=8", "targets=4"]) == {
    "inputs": 8,
    "targets": 4,
  }
  with pytest.raises(ValueError, match="--lengths has 'inputs:8'; write it"):
    options.parse_lengths(["inputs:8"])


def test_numbers_have_prefixes():
  assert describe.quantity(999) == "999"
  assert describe.quantity(1234567) == "1.23 M"
  assert describe.memory(1536) == "1.5 KiB"
  assert describe.memory(12) == "12 B"


def test_a_model_alone_is_described_with_the_optimizer_of_its_kind(capsys):
  def described(*flags):
    flags = ["--gin_file=models/palm/8b.gin", "--json", *flags]
    assert main.main(["describe", *flags]) == 0
    return json.loads(capsys.readouterr().out)["bytes"]

  usual, factored = described(), described("--optimizer=adafactor")
  # Adam's two moments have the parameters' shapes.
  assert 0 <= usual["optimizer"] - 2 * usual["parameters"] < 1000
  assert factored["optimizer"] < 0.01 * usual["optimizer"]


def test_tasks_are_listed_with_what_they_do(capsys):
  assert main.main(["tasks"]) == 0
  listed = capsys.readouterr().out
  for line in ("python_docs_span_corruption ", "python_causal_lm "):
    assert f"  {line}" in listed
  assert "mixes python_docs_mlm (1), python_source_mlm (1)" in listed


def test_a_task_shows_raw_text_rows_and_shares(capsys):
  assert main.main(["tasks", "python_docs_span_corruption"]) == 0
  shown = capsys.readouterr().out
  assert shown.count("-- raw example") == 2
  assert shown.count("-- row for encoder_decoder") == 2
  assert "[[<extra_id_0>" in shown
  assert "metrics: infilling\n" in shown
  assert "padding 0.0% of positions, loss on 18.5% of tokens" in shown
  assert "--pack" not in shown


def test_metrics_of_texts_and_of_likelihoods_are_named(capsys):
  arguments = ["offline_cloze", "--split=validation", "--num_examples=1"]
  assert main.main(["tasks", *arguments]) == 0
  assert "metrics: greedy_match\n" in capsys.readouterr().out


def test_labels_and_masks_that_repeat_are_counted(vocabulary):
  sentinel = vocabulary.vocab_size - 1
  row = {
    "encoder_input_tokens": np.array([*vocabulary.encode("abcd"), 0]),
    "encoder_target_tokens": np.array([sentinel] * 4 + [0]),
    "encoder_loss_weights": np.array([1, 1, 1, 1, 0]),
    "encoder_segment_ids": np.array([1, 1, 1, 1, 0]),
  }
  *_, last = tasks._row_lines(row, vocabulary)
  assert last == "  [[<extra_id_0> x4]]"


@pytest.mark.parametrize(
  ["arguments", "message"],
  [
    (["tasks", "python_doc_mlm"], "did you mean python_docs_mlm"),
    (["tasks", "python_docs_mlm", "--split=test"], "has no --split='test'"),
    (["tasks", "a", "b"], "give one task, not 2"),
    (["infer", "--model_dir=x"], "give either --text or --input"),
    (["infer", "--model_dir=x", "--input=y"], "--input and --output"),
    (["infer", "--model_dir=/nonesuch", "--text=y"], "holds no run"),
    (["describe", "--gin_file=models/palm/tiny.gin"], "give --vocab_size"),
    (["describe"], "no gin file binds model.Model"),
    (["vocab", "--input=x"], "give --output"),
    (
      ["vocab", "--input=/nonesuch", "--output=none.model"],
      "no such text file",
    ),
  ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
  assert main.main(arguments) == 2
  printed = capsys.readouterr().err
  assert message in printed
  assert printed.startswith("t5x_lite: error: ") and printed.count("\n") == 1
