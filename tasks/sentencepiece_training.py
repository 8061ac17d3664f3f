"""Trains SentencePiece models with T5's special ids: pad 0, EOS 1, unk 2.

Encoding is lossless, including newlines and indentation: a newline is a piece,
runs of spaces are pieces, rare characters fall back to bytes, and only line
ends are normalised.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import sentencepiece
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from t5x_lite.files import text_files
from tasks import cache

_OPTIONS = {
  "pad_id": 0,
  "eos_id": 1,
  "unk_id": 2,
  "bos_id": -1,
  "allow_whitespace_only_pieces": True,
  "byte_fallback": True,
  "character_coverage": 0.9999,
  "max_sentence_length": 1_000_000,
  # The unigram trainer's sums depend on this: a fixed number, rather than that
  # of the machine's cores, makes models reproducible.
  "num_threads": 16,
  "remove_extra_whitespaces": False,
  "split_digits": True,
  "user_defined_symbols": ["\n"],
}
# Code points: CR LF and CR become LF. (With an empty table, "identity", every
# process that loads the model would log a message to stderr.)
_LINE_ENDS = "D A\tA\nD\tA\n"
_PROGRESS_SECONDS = 5.0

Report = Callable[[str], None]


class VocabularyTooLarge(ValueError):
  """Reports the maximum number of pieces for a text, `most`."""

  def __init__(self, vocab_size: int, *, most: int):
    self.most = most
    super().__init__(
      f"vocab_size ({vocab_size:,}) is too large for this text, which allows "
      f"at most {most:,} pieces: set vocab_size to that, or use more text"
    )


def describe(vocab_size: int | None) -> str:
  """Returns the training settings as a string, for a cache key."""
  return f"{sentencepiece.__version__} bpe {vocab_size} {_OPTIONS} {_LINE_ENDS}"


def train(
  texts: Iterable[str],
  *,
  vocab_size: int,
  model_type: str = "bpe",
  report: Report = lambda line: None,
) -> bytes:
  """Trains a model; equal texts in equal order give an equal model.

  Args:
    texts: the texts to train on; a text may have many lines.
    vocab_size: the number of pieces, including special ones and 256 bytes.
    model_type: "bpe" trains ten times as fast as "unigram", T5's choice, which
      encodes three times as fast.
    report: called with progress messages.

  Returns:
    The bytes of a .model file.

  Raises:
    ValueError: the text is empty, or vocab_size is too large or too small.
  """
  if model_type not in ("bpe", "unigram"):
    raise ValueError(f"model_type ({model_type!r}) must be 'bpe' or 'unigram'")
  lines = [line for text in texts for line in text.split("\n") if line.strip()]
  model = io.BytesIO()
  with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
    rules.write(_LINE_ENDS)
    rules.flush()
    try:
      _in_thread(
        lambda: sentencepiece.SentencePieceTrainer.train(
          sentence_iterator=iter(lines),
          model_writer=model,
          vocab_size=vocab_size,
          model_type=model_type,
          normalization_rule_tsv=rules.name,
          minloglevel=2,
          **_OPTIONS,
        ),
        report,
      )
    except RuntimeError as error:
      raise _explained(str(error), vocab_size) from None
  proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
  # The name of a temporary file would make every model differ.
  proto.normalizer_spec.ClearField("normalization_rule_tsv")
  return proto.SerializeToString(deterministic=True)


def train_sentencepiece(
  files: str | Sequence[str],
  output: str,
  *,
  vocab_size: int,
  model_type: str = "bpe",
  field: str = "text",
  report: Report = print,
) -> str:
  """Trains a model on text files and writes it atomically.

  Args:
    files: plain text or JSON Lines, possibly compressed: paths or globs, local
      or remote.
    output: the path to write; ".model" is added if it is missing.
    vocab_size: the number of pieces.
    model_type: "bpe" or "unigram".
    field: the field of the text in JSON Lines.
    report: called with progress messages.

  Returns:
    The path of the model.

  Raises:
    ValueError: a file is missing, empty or not text, or vocab_size does not
      suit the text.
  """
  paths = text_files.expand(files)
  path = output if output.endswith(".model") else f"{output}.model"
  _check_writable(path)
  start = time.monotonic()
  lines = []
  for number, file in enumerate(paths, start=1):
    lines += text_files.read_documents([file], field=field, documents="line")
    report(f"read {number} of {len(paths)} files: {len(lines):,} lines")
  report(f"training {vocab_size:,} pieces ({model_type})")
  model = train(
    lines, vocab_size=vocab_size, model_type=model_type, report=report
  )
  if "://" in path:
    with tf.io.gfile.GFile(path, "wb") as file:
      file.write(model)
  else:
    with cache.write_atomic(path) as temporary:
      temporary.write_bytes(model)
  seconds = time.monotonic() - start
  report(f"wrote {path} ({len(model):,} bytes) after {seconds:.1f} s")
  return path


def _check_writable(path: str) -> None:
  """Raises ValueError if a path cannot be written, before training starts."""
  if "://" in path:
    return
  folder = os.path.dirname(os.path.abspath(path))
  if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
    raise ValueError(f"cannot write {path!r}: no writable folder {folder!r}")


def _in_thread(function: Callable[[], None], report: Report) -> None:
  """Runs `function` in a thread, so Ctrl-C works, and reports progress."""
  errors = []

  def run():
    try:
      function()
    except BaseException as error:
      errors.append(error)

  start = time.monotonic()
  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  while thread.is_alive():
    thread.join(timeout=_PROGRESS_SECONDS)
    if thread.is_alive():
      report(f"training for {time.monotonic() - start:.0f} s")
  if errors:
    raise errors[0]


def _explained(error: str, vocab_size: int) -> ValueError:
  """Rewrites an error of SentencePiece's trainer as one line."""
  if most := re.search(r"too high .* value <= (\d+)", error):
    return VocabularyTooLarge(vocab_size, most=int(most[1]))
  if least := re.search(r"required_chars\. \d+ vs (\d+)", error):
    return ValueError(
      f"vocab_size ({vocab_size:,}) is too small: bytes and characters alone "
      f"take {int(least[1]):,} pieces"
    )
  if "sentences_.empty()" in error:
    return ValueError("there is no text to train a vocabulary on")
  return ValueError(f"SentencePiece failed: {error}")
