"""Trains SentencePiece models of the kinds that there are."""

import io

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

WORDS = "the cat sat on a mat; unable dogs ran 12 miles\tin Zürich".split()
TEXT = [" ".join(WORDS[n:] + WORDS[:n]) for n in range(len(WORDS))] * 9
# T5's special ids.
_OPTIONS = {
  "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 90,
  "hard_vocab_limit": False,
}  # fmt: skip


def train(path, **options):
  """Trains a model and writes it; returns the path as a string."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXT),
    model_writer=model,
    minloglevel=2,
    **_OPTIONS | options,
  )
  path.write_bytes(model.getvalue())
  return str(path)


def named(count, mark=""):
  """Names sentinels from the last to the first."""
  return [f"{mark}<extra_id_{n}>" for n in reversed(range(count))]


def add(path, *pieces, kind="NORMAL"):
  """Adds pieces to a model, at its end."""
  model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
  kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
  for piece in pieces:
    model.pieces.add(piece=piece, score=-9.0, type=getattr(kinds, kind))
  path.write_bytes(model.SerializeToString())
  return str(path)
