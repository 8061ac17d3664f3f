"""Measures models in bits per byte, across objectives and tokenizers.

Held-out documents are cut into excerpts, and a part of each excerpt is scored
given the rest. All models score the same text, each in its own format:

  excerpt       [a b c d e f]      continuation scores [d e f], infilling [c d]

                continuation                       infilling
  text          [a b c | d e f]                    [a b | c d]
  prefix        [a b c] -> [d e f]                 [a b] -> [c d]
  sentinel      [a b c <X> $] -> [<X> d e f]       [a b <X> e f $] -> [<X> c d]
  pseudo        the mask, token after token        the same, seeing both sides

"text" is for tasks without inputs. "pseudo" is for encoder-only models, which
are given the number of missing tokens. A model of inputs and targets uses
"prefix" or "sentinel", with or without a mode token: the format that scores
best on excerpts that are used for this choice only. Sentinels and EOS are
given, not scored. With "text" and "prefix", infilling is scored from the left
context only, as these formats cannot show the right one.

Bytes are those of the original text, in UTF-8, whatever the tokenizer. A
tokenizer may lose characters: unknown ones, and those that it normalises
(original_text.py). Lost characters cost 8 bits per byte, as under a uniform
distribution over bytes, in addition to the bits of the tokens. So losing text
does not improve a score. "lost" is their share of the bytes.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from t5x_lite import checks
from t5x_lite.ablation import downstream, linear_probe, scoring
from t5x_lite.ablation.original_text import OriginalText
from t5x_lite.data.resolved_task import ResolvedTask
from t5x_lite.data.sentinels import Vocabulary
from t5x_lite.devices.layout import Layout
from t5x_lite.model import Model, Params

KINDS = ("continuation", "infilling")
# Passages per document for the linear probe.
_PASSAGES = 8
# The cost under a uniform distribution.
_BITS_PER_LOST_BYTE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
  """Defines what to measure, and on how much text.

  Attributes:
    documents: the maximum number of held-out documents to score. 0 for tasks
      without documents, which are measured by suites only.
    excerpts: excerpts per document, evenly spaced.
    excerpt_bytes: the length of an excerpt.
    infill: the fraction of an excerpt, in its middle, that infilling scores.
    selection: further documents, used to choose a format.
    modes: the numbers N of the mode tokens <extra_id_N> to try (UL2).
    batch_size: rows per batch.
    samples: excerpts to continue and fill in for the report.
    probe_documents: documents that a linear probe must tell apart by the
      model's features; 0 for no probe.
    suites: {name: suite of tasks with their own metrics}. (Not for an encoder,
      which cannot generate.)
  """

  documents: checks.Whole = 64
  excerpts: checks.Count = 4
  excerpt_bytes: checks.Count = 256
  infill: float = 0.125
  selection: checks.Count = 8
  modes: Sequence[checks.Whole] = ()
  batch_size: checks.Count = 32
  samples: checks.Whole = 3
  probe_documents: checks.Whole = 0
  suites: Mapping[str, downstream.Suite] = dataclasses.field(
    default_factory=dict
  )

  def __post_init__(self):
    checks.fields(self)
    if self.excerpt_bytes < 16:
      raise ValueError(
        f"Measures.excerpt_bytes ({self.excerpt_bytes}) must be at least 16"
      )
    if not 0 < self.infill < 0.5:
      raise ValueError(
        f"Measures.infill ({self.infill}) must be between 0 and 0.5"
      )


class Document(NamedTuple):
  """Holds the excerpts or passages of a held-out document.

  Attributes:
    source: the name of its corpus.
    pieces: texts of equal size.
  """

  source: str
  pieces: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Question:
  """Holds an excerpt's tokens: the scored part and its context.

  Attributes:
    document: the number of its document.
    left, scored, right: token ids.
    num_bytes: the UTF-8 bytes of the scored part in the original text.
    num_lost: the bytes among them that the tokens lose.
  """

  document: int
  left: Sequence[int]
  scored: Sequence[int]
  right: Sequence[int]
  num_bytes: int
  num_lost: int = 0


def measure(
  measures: Measures,
  model: Model,
  params: Params,
  task: ResolvedTask,
  *,
  layout: Layout | None = None,
) -> dict[str, Any]:
  """Measures a model on its task's held-out documents, and on suites.

  Returns:
    {"documents_sha256": of the texts, "sources": [per document],
    "continuation": ..., "infilling": ...}, each of these {"format": its name,
    "bits_per_byte": over all documents, "lost": the share of bytes that the
    tokenizer loses, "bits": [per document], "bytes": [per document]};
    "samples": excerpts with the model's predictions; "probe": the percentage of
    passages that a linear probe classifies correctly, per document; and
    "suites": {name: the result of `downstream.measure`}.

  Raises:
    ValueError: no held-out document of the task is long enough, or a suite
      does not suit the model.
  """
  found = {"samples": [], "suites": {}}
  if measures.documents:
    found |= _of_documents(measures, model, params, task, layout)
  if measures.probe_documents:
    found["probe"] = linear_probe.accuracies(
      model,
      params,
      task,
      [document.pieces for document in passages(measures, task)],
      batch_size=measures.batch_size,
    )
  if model.row_format.generates:
    found["suites"] = {
      name: downstream.measure(suite, model, params, layout=layout)
      for name, suite in measures.suites.items()
    }
  return found


def _of_documents(measures, model, params, task, layout) -> dict[str, Any]:
  vocabulary = task.vocabulary
  documents = excerpts(measures, task)
  # At most half of the documents are used to choose a format.
  aside = min(measures.selection, len(documents) // 2)
  chosen, scored = documents[:aside], documents[aside:]
  score = scoring.Scorer(
    model, params, task, batch_size=measures.batch_size, layout=layout
  )
  pieces = [piece for document in scored for piece in document.pieces]
  result = {
    "documents_sha256": hashlib.sha256("\0".join(pieces).encode()).hexdigest(),
    "sources": [document.source for document in scored],
    "samples": [],
  }
  for kind in KINDS:
    tried, asked = (
      list(questions(vocabulary, part, kind, measures.infill))
      for part in (chosen, scored)
    )
    best, *others = scoring.formats(task, model.row_format, measures.modes)
    if others:
      losses = {form: score(tried, form).sum() for form in (best, *others)}
      best = min(losses, key=losses.get)
    nats = score(asked, best)
    of_documents = _by_document(asked, nats, len(scored))
    result[kind] = {"format": best.name, **of_documents}
    if best.kind != "pseudo":
      result["samples"] += _samples(
        measures, model, params, task, asked, best, layout
      )
  return result


def excerpts(measures: Measures, task: ResolvedTask) -> list[Document]:
  """Returns the excerpts of each held-out document that is long enough.

  All tasks with the same sources give the same excerpts: documents alternate
  between sources, and are ordered by a hash within each.
  """
  wanted = measures.documents + measures.selection
  return _pieces(task, wanted, measures.excerpts, measures.excerpt_bytes)


def passages(measures: Measures, task: ResolvedTask) -> list[Document]:
  """Returns equally many passages of each held-out document, for the probe."""
  wanted, size = measures.probe_documents, measures.excerpt_bytes
  return _pieces(task, wanted, _PASSAGES, size, fewest=_PASSAGES)


def _pieces(task, wanted, count, size, fewest=1) -> list[Document]:
  """Cuts up to `count` pieces from each of at most `wanted` documents.

  Raises:
    ValueError: fewer than two documents are long enough for `fewest` pieces.
  """
  at_least = fewest * size
  sources = [
    [(source, text) for text in texts if len(text) >= at_least]
    for source, texts in _held_out(task).items()
  ]
  # Ordered by content: a source without a name has the task's, which differs
  # by objective.
  sources = sorted(filter(None, sources), key=lambda of: _digest(of[0][1]))
  found = [
    Document(source, _spread(text, count, size))
    for turn in itertools.zip_longest(*sources)
    for source, text in filter(None, turn)
  ]
  if len(found) < 2:
    raise ValueError(
      f"task {task.name} has {len(found)} held-out documents of at least "
      f"{at_least} bytes: lower Measures.excerpt_bytes, or hold out more text"
    )
  return found[:wanted]


def _held_out(task) -> dict[str, list[bytes]]:
  """Returns {source: held-out documents}, ordered by a hash."""
  found, known = {}, set()
  # A document in two sources counts for the first one by source name.
  parts = sorted(task.parts, key=_source_name)
  for part in parts:
    if "validation" not in part.splits:
      raise ValueError(f"task {part.name} has no validation split to measure")
    ds = part.source.get_dataset(split="validation", shuffle=False)
    texts = {row["text"] for row in ds.as_numpy_iterator()} - known
    known |= texts
    found.setdefault(_source_name(part), []).extend(texts)
  return {name: sorted(texts, key=_digest) for name, texts in found.items()}


def _digest(text: bytes) -> bytes:
  return hashlib.sha256(text).digest()


def _source_name(task) -> str:
  """Returns the source's name, or else the task's."""
  named = getattr(task.source, "tfds_dataset", task.source)
  return getattr(named, "name", task.name)


def _spread(text: bytes, count: int, size: int) -> list[str]:
  """Cuts up to `count` evenly spaced pieces of `size` bytes."""
  count = min(count, len(text) // size)
  starts = np.linspace(0, len(text) - size, count).astype(int)
  # A character that a cut splits is dropped.
  return [text[s : s + size].decode(errors="ignore") for s in starts]


def questions(
  vocabulary: Vocabulary,
  documents: Sequence[Document],
  kind: str,
  infill: float,
) -> Iterator[Question]:
  """Yields a question for each excerpt of each document."""
  for number, document in enumerate(documents):
    for excerpt in document.pieces:
      text = OriginalText(vocabulary, excerpt)
      ids = text.ids
      start, stop = len(ids) // 2, len(ids)
      if kind == "infilling":
        span = max(round(infill * len(ids)), 1)
        start, stop = (len(ids) - span) // 2, (len(ids) + span) // 2
      # A token may be part of a character: move to a character's end.
      start, stop = text.whole(start), text.whole(stop)
      if num_bytes := text.num_bytes(start, stop):
        yield Question(
          number, ids[:start], ids[start:stop], ids[stop:],
          num_bytes, text.num_lost(start, stop),
        )  # fmt: skip


def _by_document(asked, nats, count) -> dict[str, Any]:
  documents = [question.document for question in asked]

  def sums(values):
    return np.bincount(documents, weights=values, minlength=count)

  lost = sums([question.num_lost for question in asked])
  size = sums([question.num_bytes for question in asked])
  bits = sums(nats / math.log(2)) + _BITS_PER_LOST_BYTE * lost
  return {
    "bits_per_byte": float(bits.sum() / size.sum()),
    "lost": float(lost.sum() / size.sum()),
    "bits": [round(float(b), 6) for b in bits],
    "bytes": [int(b) for b in size],
  }


def _samples(measures, model, params, task, asked, form, layout):
  """Generates greedy predictions for the first excerpts of a few documents."""
  firsts = {question.document: question for question in reversed(asked)}
  shown = [firsts[n] for n in sorted(firsts)][: measures.samples]
  if not shown:
    return []
  predictions = scoring.generate(
    model, params, task, shown, form, layout=layout
  )
  vocabulary = task.vocabulary
  return [
    {
      "format": form.name,
      "left": vocabulary.decode(list(question.left)),
      "truth": vocabulary.decode(list(question.scored)),
      "right": vocabulary.decode(list(question.right)),
      "prediction": prediction,
    }
    for question, prediction in zip(shown, predictions, strict=True)
  ]
