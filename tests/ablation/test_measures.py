"""Held-out text is cut, asked about and scored as the drawings say."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import seqio

from t5x_lite import row_formats
from t5x_lite.ablation import linear_probe, measures, scoring
from t5x_lite.ablation.measures import Document, Measures, Question
from t5x_lite.ablation.scoring import Format
from t5x_lite.data import Data
from t5x_lite.data.resolved_task import resolve
from tasks import mixtures, text
from tasks.causal_lm import CausalLM
from tasks.mlm import MLM
from tasks.span_corruption import SpanCorruption
from tests import tiny

BYTES = seqio.ByteVocabulary(extra_ids=5)
X0, EOS = BYTES.vocab_size - 1, BYTES.eos_id
ASKED = Question(0, (10, 11), (12, 13), (14,), 2)


class Run:
  """What the measures read of a run."""

  def __init__(self, task, lengths):
    self.train = Data(task=task, lengths=lengths, batch_size=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp("text") / "corpus.txt"
  lines = [f"Line {i} says {i} and é: {'abcdef' * 6}{i}." for i in range(60)]
  path.write_text("\n".join(lines))

  def make(objective, **lengths):
    task = text.text_task(
      files=str(path), objective=objective, vocabulary="bytes",
      documents="line", validation=0.3,
    )  # fmt: skip
    return Run(task, lengths)

  return make


def test_formats_by_hand():
  assert Format("text").arrange(ASKED, BYTES) == ([], [10, 11, 12, 13], 2)
  assert Format("prefix").arrange(ASKED, BYTES) == ([10, 11], [12, 13], 0)
  assert Format("sentinel").arrange(ASKED, BYTES) == (
    [10, 11, X0, 14, EOS], [X0, 12, 13], 1,
  )  # fmt: skip
  moded = Format("sentinel", 4).arrange(ASKED, BYTES)
  assert moded == ([X0 - 4, 10, 11, X0, 14, EOS], [X0, 12, 13], 1)


def test_questions_part_an_excerpt_and_count_its_bytes():
  document = Document("novels", ["abcdefgh"])
  (one,) = measures.questions(BYTES, [document], "continuation", 0.25)
  assert BYTES.decode(list(one.left)) == "abcd" and one.right == []
  assert BYTES.decode(list(one.scored)) == "efgh" and one.num_bytes == 4
  (one,) = measures.questions(BYTES, [document], "infilling", 0.25)
  parts = (one.left, one.scored, one.right)
  assert [BYTES.decode(list(p)) for p in parts] == ["abc", "de", "fgh"]


def test_all_tasks_over_one_source_are_asked_the_same(run):
  settings = Measures(documents=5, excerpt_bytes=20, excerpts=2, selection=2)
  first = run(CausalLM(), targets=16)
  second = run(SpanCorruption(), inputs=16, targets=8)
  found = measures.excerpts(settings, resolve(first.train.task))
  assert found == measures.excerpts(settings, resolve(second.train.task))
  texts = [document.pieces for document in found]
  assert len(texts) == 7 and {len(t) for t in texts} == {2}
  assert all(len(piece.encode()) <= 20 for t in texts for piece in t)


def test_of_several_sources_documents_are_taken_in_turns(tmp_path):
  settings = Measures(documents=5, excerpt_bytes=16, excerpts=1, selection=2)
  found = []
  for objective in (CausalLM(), SpanCorruption()):
    tasks = []
    for name, count in (("many", 30), ("few", 4)):
      path = tmp_path / f"{name}.txt"
      lines = [f"{name}: line {i} of some" for i in range(count)]
      lines += [f"both: line {i} of some" for i in range(10)]
      path.write_text("\n".join(lines))
      tasks.append(
        text.text_task(
          files=str(path), objective=objective, vocabulary="bytes",
          documents="line", validation=0.5,
        )
      )  # fmt: skip
    mixture = mixtures.mix(tasks=tasks, rates=[3, 1])
    found.append(measures.excerpts(settings, resolve(mixture)))
  assert found[0] == found[1]
  names = [document.source.rpartition("/")[2] for document in found[0]]
  assert len(names) == 7 and len(set(names[:2])) == 2
  texts = [document.pieces[0].partition(":")[0] for document in found[0]]
  # What both have is of the first by name.
  assert {*zip(names, texts, strict=True)} <= {
    ("few.txt", "few"), ("few.txt", "both"), ("many.txt", "many"),
  }  # fmt: skip


CASES = {
  "palm": (CausalLM(), {"targets": 16}, "text"),
  "t5": (SpanCorruption(), {"inputs": 16, "targets": 8}, "sentinel"),
  "prefix_lm": (SpanCorruption(), {"inputs": 16, "targets": 8}, "prefix"),
  "encoder": (MLM(), {"inputs": 16}, "pseudo"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_uniform_model_has_the_bits_of_its_vocabulary(run, name):
  objective, lengths, kind = CASES[name]
  task = resolve(run(objective, **lengths).train.task)
  size = 384
  model = _with_vocabulary(tiny.ALL[name](), size)
  params = jax.tree.map(np.zeros_like, model.init(jax.random.key(0)))
  scorer = scoring.Scorer(model, params, task, batch_size=4, layout=None)
  asked = [ASKED, Question(0, (10,), (12, 13, 14), (15, 16), 3)]
  nats = scorer(asked, Format(kind))
  # Sentinels and EOS are not scored: two tokens, and three.
  assert nats == pytest.approx([2 * math.log(size), 3 * math.log(size)])


def _with_vocabulary(model, size):
  transformer = model.transformer.clone(vocab_size=size)
  return dataclasses.replace(model, transformer=transformer)


def test_formats_follow_the_task(run):
  clm = resolve(run(CausalLM(), targets=16).train.task)
  spans = resolve(run(SpanCorruption(), inputs=16, targets=8).train.task)
  assert scoring.formats(clm, row_formats.CAUSAL, ()) == [Format("text")]
  names = [f.name for f in scoring.formats(spans, row_formats.PREFIX, (4,))]
  assert names == ["prefix", "prefix, mode 4", "sentinel", "sentinel, mode 4"]
  assert scoring.formats(spans, row_formats.ENCODER, ()) == [Format("pseudo")]


@pytest.mark.parametrize(
  ["settings", "message"],
  [
    ({"documents": -1}, "documents"),
    ({"excerpt_bytes": 3}, r"excerpt_bytes \(3\) must be at least 16"),
    ({"infill": 0.7}, r"infill \(0.7\) must be between 0 and 0.5"),
  ],
)
def test_mistakes_name_the_value(settings, message):
  with pytest.raises(ValueError, match=message):
    Measures(**settings)


def test_first_spans_are_what_stands_in_the_first_blank():
  assert scoring._first_span("<extra_id_0> a b<extra_id_1> c") == "a b"
  assert scoring._first_span("plain words") == "plain words"
  assert scoring._first_span("") == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["palm", "t5", "encoder"])
def test_a_probe_tells_documents_apart_by_the_words_that_they_have(name, run):
  objective, lengths, _ = CASES[name]
  task = resolve(run(objective, **lengths).train.task)
  model = _with_vocabulary(tiny.ALL[name](), 384)
  params = model.init(jax.random.key(0))
  pieces = ["aaaa", "bbbb", "cc dd"]
  apart = [[piece * n for n in range(2, 10)] for piece in pieces]
  settings = {"batch_size": 8}
  found = linear_probe.accuracies(model, params, task, apart, **settings)
  assert len(found) == 3 and min(found) > 80
  alike = [["xyz" * n for n in range(2, 10)] for _ in pieces]
  found = linear_probe.accuracies(model, params, task, alike, **settings)
  assert np.mean(found) < 60


def test_the_state_of_a_text_is_that_of_its_own_tokens():
  model = tiny.palm()
  params = model.init(jax.random.key(0))
  texts = [[5, 6, 7], [5, 6, 7, 8, 9, 10], [11, 12]]
  alone = [linear_probe.pooled(model, params, [t], 1)[0] for t in texts]
  together = linear_probe.pooled(model, params, texts, 2)
  np.testing.assert_allclose(together, alone, atol=1e-5)
