"""Measures in bits per byte, which compare across objectives and tokenizers.

Held-out documents are cut into excerpts; of each, a part is scored given the
rest. What is compared is the same text; how a model is asked is its own format:

  excerpt       [a b c d e f]      continuation scores [d e f], infilling [c d]

                continuation                       infilling
  text          [a b c | d e f]                    [a b | c d]
  prefix        [a b c] -> [d e f]                 [a b] -> [c d]
  sentinel      [a b c <X> $] -> [<X> d e f]       [a b <X> e f $] -> [<X> c d]
  pseudo        the mask, token after token        the same, seeing both sides

"text" is for tasks without inputs, "pseudo" for encoder-only models, which are
told how many tokens are missing. Of "prefix" and "sentinel", each with each
mode token, a model of pairs has what scores best on excerpts put aside for the
choice. Sentinels and EOS are given, not scored. "text" and "prefix" infill from
the left side alone: it is all that they can be shown.

Bytes are those of the original text, in UTF-8, whatever a tokenizer makes of
it. Characters that it does not give back (unknown ones, and those that it
normalises away: original_text.py) cost 8 bits a byte beside what the model says
of the tokens, as if a uniform distribution over bytes had said them: nothing is
gained by losing text. "lost" is their share of the bytes.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio

from t5x_lite.ablation import downstream, linear_probe, scoring
from t5x_lite.ablation.original_text import OriginalText
from t5x_lite.data import batches

KINDS = ("continuation", "infilling")
# Of each document that the probe tells from others.
_PASSAGES = 8
# Of a uniform distribution.
_BITS_PER_LOST_BYTE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
  """Says what is measured, on how much text.

  Attributes:
    documents: held-out documents to score; fewer where there are fewer. 0 for
      tasks without documents, of which suites alone are measured.
    excerpts: of each document, spread evenly over it.
    excerpt_bytes: the length of an excerpt.
    infill: the share of an excerpt that infilling takes from its middle.
    selection: further documents on which a format is chosen.
    modes: numbers N of the <extra_id_N> that stand for modes (UL2), to try.
    batch_size: rows at a time.
    samples: excerpts to continue and fill in for the report.
    probe_documents: how many documents a linear probe tells apart by the
      model's features; 0 for no probe.
    suites: name -> tasks to ask by their own metrics. (An encoder generates
      nothing, and is not asked.)
  """

  documents: int = 64
  excerpts: int = 4
  excerpt_bytes: int = 256
  infill: float = 0.125
  selection: int = 8
  modes: Sequence[int] = ()
  batch_size: int = 32
  samples: int = 3
  probe_documents: int = 0
  suites: Mapping[str, downstream.Suite] = dataclasses.field(
    default_factory=dict
  )

  def __post_init__(self):
    for name in ("documents", "probe_documents"):
      if getattr(self, name) < 0:
        raise ValueError(f"Measures.{name} ({getattr(self, name)}) must be 0+")
    for name in ("excerpts", "selection", "batch_size"):
      if getattr(self, name) < 1:
        raise ValueError(f"Measures.{name} ({getattr(self, name)}) must be 1+")
    if self.excerpt_bytes < 16:
      raise ValueError(
        f"Measures.excerpt_bytes ({self.excerpt_bytes}) must be at least 16"
      )
    if not 0 < self.infill < 0.5:
      raise ValueError(
        f"Measures.infill ({self.infill}) must be between 0 and 0.5"
      )


class Document(NamedTuple):
  """What is taken of a held-out document.

  Attributes:
    source: the name of the corpus that it is from.
    pieces: texts of one size.
  """

  source: str
  pieces: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Question:
  """An excerpt's tokens: what is scored, and what stands around it.

  Attributes:
    document: which document it is of.
    left, scored, right: token ids.
    num_bytes: of the scored text in the original, in UTF-8.
    num_lost: those of them that the tokens do not give back.
  """

  document: int
  left: Sequence[int]
  scored: Sequence[int]
  right: Sequence[int]
  num_bytes: int
  num_lost: int = 0


def measure(
  measures: Measures, model: Any, params: Any, run: Any, *, layout: Any = None
) -> dict[str, Any]:
  """Measures a model on its run's held-out documents, and on suites.

  Returns:
    {"documents_sha256": of the texts, "sources": [per document],
    "continuation": ..., "infilling": ...}, each of these {"format": its name,
    "bits_per_byte": over all documents, "lost": the share of bytes that the
    tokenizer loses, "bits": [per document], "bytes": [per document]}, and
    "samples": excerpts with what the model makes of them; "probe": the
    percentage of passages that a linear probe recognises, per document; and
    "suites": name -> what `downstream.measure` finds.

  Raises:
    ValueError: the run's task has no held-out document that is long enough, or
      a suite that cannot be asked.
  """
  found = {"samples": [], "suites": {}}
  if measures.documents:
    found |= _of_documents(measures, model, params, run, layout)
  if measures.probe_documents:
    found["probe"] = linear_probe.accuracies(
      model,
      params,
      run.train.task,
      [document.pieces for document in passages(measures, run.train.task)],
      batch_size=measures.batch_size,
    )
  if model.row_format.generates:
    found["suites"] = {
      name: downstream.measure(suite, model, params, layout=layout)
      for name, suite in measures.suites.items()
    }
  return found


def _of_documents(measures, model, params, run, layout) -> dict[str, Any]:
  vocabulary = batches.vocabularies(run.train.task)[1]
  documents = excerpts(measures, run.train.task)
  # Aside for the choice of a format: not more than half.
  aside = min(measures.selection, len(documents) // 2)
  chosen, scored = documents[:aside], documents[aside:]
  score = scoring.Scorer(
    model, params, run, batch_size=measures.batch_size, layout=layout
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
    best, *others = scoring.formats(run, model.row_format, measures.modes)
    if others:
      losses = {form: score(tried, form).sum() for form in (best, *others)}
      best = min(losses, key=losses.get)
    nats = score(asked, best)
    of_documents = _by_document(asked, nats, len(scored))
    result[kind] = {"format": best.name, **of_documents}
    if best.kind != "pseudo":
      result["samples"] += _samples(
        measures, model, params, run, vocabulary, asked, best, layout
      )
  return result


def excerpts(measures: Measures, task: str) -> list[Document]:
  """Returns the excerpts of each held-out document that is long enough.

  All tasks over the same sources give the same, in turns from each source; the
  order is that of a hash.
  """
  wanted = measures.documents + measures.selection
  return _pieces(task, wanted, measures.excerpts, measures.excerpt_bytes)


def passages(measures: Measures, task: str) -> list[Document]:
  """Returns passages of held-out documents, as many of each, for the probe."""
  wanted, size = measures.probe_documents, measures.excerpt_bytes
  return _pieces(task, wanted, _PASSAGES, size, fewest=_PASSAGES)


def _pieces(task, wanted, count, size, fewest=1) -> list[Document]:
  """Cuts up to `count` pieces from each document, `wanted` documents at most.

  Raises:
    ValueError: fewer than two documents are long enough for the `fewest`.
  """
  at_least = fewest * size
  sources = [
    [(source, text) for text in texts if len(text) >= at_least]
    for source, texts in _held_out(task).items()
  ]
  # By what they hold: their names may be those of tasks, which differ by
  # objective.
  sources = sorted(filter(None, sources), key=lambda of: _digest(of[0][1]))
  found = [
    Document(source, _spread(text, count, size))
    for turn in itertools.zip_longest(*sources)
    for source, text in filter(None, turn)
  ]
  if len(found) < 2:
    raise ValueError(
      f"task {task} has {len(found)} held-out documents of {at_least} bytes: "
      "lower Measures.excerpt_bytes, or hold more text out"
    )
  return found[:wanted]


def _held_out(task) -> dict[str, list[bytes]]:
  """Returns source -> its held-out documents, in the order of a hash."""
  found, known = {}, set()
  # What two sources share is the first's, whatever the tasks are called.
  parts = sorted(seqio.get_subtasks(batches.get_task(task)), key=_source_name)
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
  """Returns what all tasks over a source call it, if it has a name."""
  named = getattr(task.source, "tfds_dataset", task.source)
  return getattr(named, "name", task.name)


def _spread(text: bytes, count: int, size: int) -> list[str]:
  """Cuts up to `count` pieces of `size` bytes, evenly, without overlap."""
  count = min(count, len(text) // size)
  starts = np.linspace(0, len(text) - size, count).astype(int)
  # A character that a cut falls into is left out.
  return [text[s : s + size].decode(errors="ignore") for s in starts]


def questions(
  vocabulary: Any, documents: Sequence[Document], kind: str, infill: float
) -> Iterator[Question]:
  """Yields what is asked about each excerpt of each document."""
  for number, document in enumerate(documents):
    for excerpt in document.pieces:
      text = OriginalText(vocabulary, excerpt)
      ids = text.ids
      start, stop = len(ids) // 2, len(ids)
      if kind == "infilling":
        span = max(round(infill * len(ids)), 1)
        start, stop = (len(ids) - span) // 2, (len(ids) + span) // 2
      # A token may be half of a character.
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


def _samples(measures, model, params, run, vocabulary, asked, form, layout):
  """Completes the first excerpts of a few documents, greedily."""
  firsts = {question.document: question for question in reversed(asked)}
  shown = [firsts[n] for n in sorted(firsts)][: measures.samples]
  if not shown:
    return []
  predictions = scoring.generate(model, params, run, shown, form, layout=layout)
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
