"""Registers tasks over text files or built-in corpora, for use in gin files.

For example:

  from __gin__ import dynamic_registration
  from t5x_lite import data
  from tasks import span_corruption
  from tasks import text

  data.Data.task = @text.text_task()
  text.text_task.files = "novels/*.txt"
  text.text_task.objective = @span_corruption.SpanCorruption()
  span_corruption.SpanCorruption.noise_density = 0.3

By default the task's name is derived from all arguments, so that changing the
objective in gin cannot collide with another task.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import seqio
import tensorflow as tf
from absl import logging

from t5x_lite.files import text_files
from t5x_lite.files.near_names import did_you_mean, near
from tasks import cache, corpora, sources, vocabularies
from tasks.task import Objective, add_task, find_task

# The assumed ratio of a compressed file's content to its size.
_PACKED_RATIO = 4
# Change this when files are read differently: it is part of the cache key.
_READER = "lines by content"


def text_task(
  *,
  files: str | Sequence[str],
  objective: Objective,
  vocabulary: seqio.Vocabulary | str | None = None,
  field: str = "text",
  documents: str = "blank_line",
  validation: float | str | Sequence[str] = 0.05,
  skip_bad_lines: bool = False,
  name: str | None = None,
) -> str:
  """Registers a task over text files and returns its name.

  Files are read on first use. Calling this again with equal arguments returns
  the same task.

  Args:
    files: plain text or JSON Lines, possibly compressed (see text_files.py):
      paths or globs, local or with a scheme such as gs://.
    objective: how documents become examples, e.g. `SpanCorruption()`.
    vocabulary: "bytes", the path of a SentencePiece model, or a seqio
      vocabulary. None trains a SentencePiece model on the files, once.
    field: the field of the text in JSON Lines; each line is a document.
    documents: where plain text is divided into documents: at blank lines
      ("blank_line"), at every line ("line"), or not at all ("file").
    validation: the fraction of documents to hold out, chosen by a hash of the
      document; or the validation files.
    skip_bad_lines: whether a line that is not UTF-8, or not a JSON object with
      a text, is left out and counted in a warning; it is refused otherwise.
    name: the task's name. None uses an equal task's name, or derives one from
      the arguments.

  Returns:
    The name, for `data.Data.task`.
  """
  source = TextFiles(
    files,
    field=field,
    documents=documents,
    validation=validation,
    skip_bad_lines=skip_bad_lines,
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
    corpus: the name of the corpus.
    objective: how documents become examples, e.g.
      `SpanCorruption(mean_span=8.0)`.
    vocabulary: as for `text_task`; None means the vocabulary of both corpora.
    name: the task's name. None uses an equal task's name, or derives one from
      the arguments.

  Returns:
    The name, for `data.Data.task`.
  """
  if corpus not in corpora.CORPORA:
    raise ValueError(
      f"corpus ({corpus!r}) must be one of "
      f"{', '.join(map(repr, corpora.CORPORA))}"
      f"{did_you_mean(near(corpus, corpora.CORPORA))}"
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
  """Returns the vocabulary shared by the tasks over CPython's text.

  It has only 1,024 ids, so that a small model learns something in minutes.
  """
  return vocabularies.TrainedSentencePiece(
    list(corpora.CORPORA.values()), num_pieces=1024 - vocabularies.EXTRA_IDS
  )


class TextFiles(sources.LazySource):
  """Serves the documents of text files as {"text": string}.

  Up to 256 MB are held in memory; more is written once to record files in the
  user's cache.
  """

  def __init__(
    self,
    files: str | Sequence[str],
    *,
    field: str = "text",
    documents: str = "blank_line",
    validation: float | str | Sequence[str] = 0.05,
    skip_bad_lines: bool = False,
  ):
    if documents not in text_files.DOCUMENTS:
      raise ValueError(
        f"documents ({documents!r}) must be one of "
        f"{', '.join(map(repr, text_files.DOCUMENTS))}"
      )
    if isinstance(validation, int | float) and not 0 <= validation < 1:
      raise ValueError(
        f"validation ({validation}) must be from 0 to 1 (1 excluded), or files"
      )
    self.files = _as_tuple(files)
    self.field = field
    self.documents = documents
    self.validation = (
      float(validation)
      if isinstance(validation, int | float)
      else _as_tuple(validation)
    )
    self.skip_bad_lines = skip_bad_lines
    has_validation = self.validation != 0.0
    super().__init__(
      ", ".join(self.files), sources.SPLITS if has_validation else ("train",)
    )

  def recipe(self) -> tuple:
    recipe = (self.files, self.field, self.documents, self.validation)
    # Left out by default, so that names derived earlier stay.
    return (*recipe, "skip_bad_lines") if self.skip_bad_lines else recipe

  def text_record(self, split: str) -> dict[str, str]:
    # Any file may be in any split: documents are divided by a hash.
    del split
    held_out = self.validation if isinstance(self.validation, tuple) else ()
    paths = text_files.expand([*self.files, *held_out])
    return {path: path for path in paths}

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
    bad: list[ValueError] = []
    read = functools.partial(
      text_files.read_documents,
      field=self.field,
      documents=self.documents,
      on_bad_line=bad.append if self.skip_bad_lines else text_files.refuse,
    )
    for text in read(held_out):
      yield "validation", text
    share = self.validation if isinstance(self.validation, float) else 0.0
    for text in read(train):
      is_held_out = cache.unit_interval(text) < share
      yield ("validation" if is_held_out else "train"), text
    if bad:
      logging.warning("skipped %d bad lines; the first: %s", len(bad), bad[0])

  def _in_memory(
    self, train: Sequence[str], held_out: Sequence[str]
  ) -> sources.MemorySource:
    texts = {split: [] for split in self.splits}
    for split, text in self._divided(train, held_out):
      texts[split].append(text)
    # With few documents, the hash may leave one of the splits empty.
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
