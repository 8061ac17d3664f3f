"""Makes tasks of a user's text, or of a corpus that is here, in a gin file.

For example:

  from __gin__ import dynamic_registration
  from t5x_lite import data
  from tasks import span_corruption
  from tasks import text

  data.Data.task = @text.text_task()
  text.text_task.files = "novels/*.txt"
  text.text_task.objective = @span_corruption.SpanCorruption()
  span_corruption.SpanCorruption.noise_density = 0.3

A name of its own is made for every combination of arguments, so that changing
the objective in gin never meets another task's name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import seqio
import tensorflow as tf

from t5x_lite.files import text_files
from tasks import cache, corpora, sources, vocabularies
from tasks.task import Objective, add_task, did_you_mean, find_task

# A packed file counts as this many times its size.
_PACKED_RATIO = 4
# Of how files are read: what was kept when they were read otherwise is stale.
_READER = "lines by content"


def text_task(
  *,
  files: str | Sequence[str],
  objective: Objective,
  vocabulary: seqio.Vocabulary | str | None = None,
  field: str = "text",
  documents: str = "blank_line",
  validation: float | str | Sequence[str] = 0.05,
  name: str | None = None,
) -> str:
  """Registers a task over text files and returns its name.

  Nothing is read before the task is used. Calling it again with equal
  arguments gives the same task.

  Args:
    files: plain text or JSON lines, packed or not (text_files.py tells which):
      paths or globs; local, or with a scheme such as gs://.
    objective: what to learn from them, e.g. `SpanCorruption()`.
    vocabulary: "bytes", the path of a SentencePiece model, or a seqio
      vocabulary. None trains a SentencePiece model on the files once.
    field: the text's name in JSON lines, of which each is a document.
    documents: how plain text is divided into documents: at blank lines
      ("blank_line"), at every line ("line"), or not at all ("file").
    validation: the share of documents to hold out, chosen by a hash of the
      document, or files of their own.
    name: the task's name. None finds an equal task, or makes a name of the
      arguments' digest.

  Returns:
    The name, for `data.Data.task`.
  """
  source = TextFiles(
    files, field=field, documents=documents, validation=validation
  )
  if vocabulary is None:
    vocabulary = vocabularies.TrainedSentencePiece([source])
  return _add(name, "text", source, objective, vocabulary)


def corpus_task(
  *,
  corpus: str,
  objective: Objective,
  vocabulary: seqio.Vocabulary | str | None = None,
  name: str | None = None,
) -> str:
  """Registers a task over "python_docs" or "python_source".

  Args:
    corpus: its name.
    objective: what to learn from it, e.g. `SpanCorruption(mean_span=8.0)`.
    vocabulary: as for `text_task`; None is the one that both corpora share.
    name: the task's name. None finds an equal task, or makes a name of the
      arguments' digest.

  Returns:
    The name, for `data.Data.task`.
  """
  if corpus not in corpora.CORPORA:
    raise ValueError(
      f"corpus ({corpus!r}) must be one of "
      f"{', '.join(map(repr, corpora.CORPORA))}"
      f"{did_you_mean(corpus, corpora.CORPORA)}"
    )
  return _add(
    name,
    corpus,
    corpora.CORPORA[corpus],
    objective,
    python_vocabulary() if vocabulary is None else vocabulary,
  )


@functools.cache
def python_vocabulary() -> vocabularies.TrainedSentencePiece:
  """Returns the vocabulary that the tasks over CPython's text share.

  1,024 ids: short pieces, of which a model learns something in minutes.
  """
  return vocabularies.TrainedSentencePiece(
    list(corpora.CORPORA.values()), num_pieces=1024 - vocabularies.EXTRA_IDS
  )


class TextFiles(sources.LazySource):
  """Serves text files: {"text": string}, one document each.

  Up to 256 MB are held in memory; more is divided once into record files in
  the user's cache.
  """

  def __init__(
    self,
    files: str | Sequence[str],
    *,
    field: str = "text",
    documents: str = "blank_line",
    validation: float | str | Sequence[str] = 0.05,
  ):
    if documents not in text_files.DOCUMENTS:
      raise ValueError(
        f"documents ({documents!r}) must be one of "
        f"{', '.join(map(repr, text_files.DOCUMENTS))}"
      )
    if isinstance(validation, int | float) and not 0 <= validation < 1:
      raise ValueError(
        f"validation ({validation}) must be a share from 0 to 1, or files"
      )
    self.files = _as_tuple(files)
    self.field = field
    self.documents = documents
    self.validation = (
      float(validation)
      if isinstance(validation, int | float)
      else _as_tuple(validation)
    )
    has_validation = self.validation != 0.0
    super().__init__(
      ", ".join(self.files), sources.SPLITS if has_validation else ("train",)
    )

  def recipe(self) -> tuple:
    return (self.files, self.field, self.documents, self.validation)

  def make(self) -> sources.MemorySource | sources.RecordSource:
    train = text_files.expand(self.files)
    held_out = []
    if isinstance(self.validation, tuple):
      held_out = text_files.expand(self.validation)
    for path in train + held_out:
      text_files.check_text(path, f"the name of the file {path!r}")
    stats = {path: tf.io.gfile.stat(path) for path in train + held_out}
    size = sum(
      stat.length * (_PACKED_RATIO if text_files.compression(path) else 1)
      for path, stat in stats.items()
    )
    if size <= sources.MEMORY_BYTES:
      return self._in_memory(train, held_out)
    versions = [
      f"{path} {stat.length} {stat.mtime_nsec}" for path, stat in stats.items()
    ]
    return sources.write_records(
      self.name,
      cache.digest([_READER, repr(self.recipe()), *versions]),
      (
        (split, {"text": text})
        for split, text in self._divided(train, held_out)
      ),
    )

  def _divided(self, train: Sequence[str], held_out: Sequence[str]):
    """Yields (split, document)."""
    read = functools.partial(
      text_files.read_documents, field=self.field, documents=self.documents
    )
    for text in read(held_out):
      yield "validation", text
    share = self.validation if isinstance(self.validation, float) else 0.0
    for text in read(train):
      is_held_out = cache.unit_interval(text) < share
      yield ("validation" if is_held_out else "train"), text

  def _in_memory(
    self, train: Sequence[str], held_out: Sequence[str]
  ) -> sources.MemorySource:
    texts = {split: [] for split in self.splits}
    for split, text in self._divided(train, held_out):
      texts[split].append(text)
    # Of a few documents the hash may choose none, or all.
    for empty, other in (("validation", "train"), ("train", "validation")):
      if texts.get(empty) == [] and len(texts[other]) > 1:
        chosen = min(texts[other], key=cache.unit_interval)
        texts[empty] = [text for text in texts[other] if text == chosen]
        texts[other] = [text for text in texts[other] if text != chosen]
    return sources.MemorySource(
      self.name, {split: {"text": rows} for split, rows in texts.items()}
    )


def _as_tuple(files: str | Sequence[str]) -> tuple[str, ...]:
  return (files,) if isinstance(files, str) else tuple(files)


def _add(
  name: str | None,
  prefix: str,
  source: sources.LazySource,
  objective: Objective,
  vocabulary: seqio.Vocabulary | str,
) -> str:
  vocabulary = vocabularies.resolve(vocabulary)
  if name is None:
    name = find_task(source, objective, vocabulary)
  if name is None:
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(objective).__name__)
    parts = map(repr, (source, objective))
    digest = cache.digest([*parts, vocabularies.identity(vocabulary)])
    name = f"{prefix}_{kind.lower()}_{digest[:8]}"
  return add_task(
    name, source=source, objective=objective, vocabulary=vocabulary
  )
