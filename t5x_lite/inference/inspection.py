"""Inspects a model on one text: the traces of probe.py, with token names."""

import dataclasses
from typing import Any

import numpy as np

from t5x_lite.data import sentinels as text_lib
from t5x_lite.data.sentinels import Vocabulary
from t5x_lite.inference.probe import Trace, cosine_distances, logit_lens, probe
from t5x_lite.model import Model, Params


@dataclasses.dataclass(frozen=True)
class Inspection:
  """Holds a model's activations on a text.

  Attributes:
    tokens: {stack: text of its input tokens}; a decoder's inputs are its
      targets, shifted right after a start token.
    traces: {stack: Trace of one row}.
    distances: {stack: [L, T]}, 1 - cosine of each layer's input and output.
    lens: for each layer and place of the last stack, the most probable tokens,
      as (piece, probability).
  """

  tokens: dict[str, list[str]]
  traces: dict[str, Trace]
  distances: dict[str, np.ndarray]
  lens: list[list[list[tuple[str, float]]]]

  @property
  def read(self) -> str:
    """Returns the name of the stack under the head."""
    return list(self.traces)[-1]

  def attention_between(self, query: int, key: int) -> list[list[float]]:
    """Returns the attention of a query place to a key place, [L][N], in `read`.

    Raises:
      ValueError: there is no such place.
    """
    tokens = self.tokens[self.read]
    for place in (query, key):
      if not 0 <= place < len(tokens):
        raise ValueError(
          f"place {place} must be one of the {len(tokens)} tokens of the "
          f"{self.read}, 0 to {len(tokens) - 1}: {' '.join(tokens)}"
        )
    maps = self.traces[self.read].attention[:, 0]
    return np.round(maps[:, :, query, key].astype(float), 6).tolist()

  def as_json(self) -> dict[str, Any]:
    """Returns all but the states, as a dict that can be written as JSON."""

    def rounded(x):
      return None if x is None else np.round(x.astype(float), 6).tolist()

    return {
      "tokens": self.tokens,
      "cosine_distances": {k: rounded(v) for k, v in self.distances.items()},
      "lens": {"stack": self.read, "layers": self.lens},
      "attention": {k: rounded(t.attention[:, 0]) for k, t in self._items()},
      "cross_attention": {
        k: rounded(t.cross_attention[:, 0])
        for k, t in self._items()
        if t.cross_attention is not None
      },
    }

  def _items(self):
    return self.traces.items()

  def as_text(self) -> str:
    """Returns a table with a line for each layer."""
    lines = []
    for name, distances in self.distances.items():
      lines.append(f"{name}: {' '.join(self.tokens[name])}")
      lines.append("  layer  cosine distance")
      for layer, row in enumerate(distances, 1):
        lines.append(f"  {layer:<5}  {row.mean():.4f}")
    last = len(self.tokens[self.read]) - 1
    lines.append(f"{self.read}: logit lens of each layer at place {last}")
    for layer, places in enumerate(self.lens):
      words = "  ".join(f"{piece} {p:.3f}" for piece, p in places[last])
      lines.append(f"  {layer:<5}  {words}")
    return "\n".join(lines)


def inspect(
  model: Model,
  params: Params,
  vocabulary: Vocabulary,
  text: str,
  targets: str = "",
  *,
  top_k: int = 5,
) -> Inspection:
  """Runs a model on a text, and returns its activations.

  Args:
    model: a model of any architecture.
    params: its parameters.
    vocabulary: a seqio-like vocabulary of inputs and targets.
    text: the input text; a sentinel is written <extra_id_N>.
    targets: the text of an encoder-decoder's decoder; a decoder-only model
      reads it after `text`.
    top_k: the number of tokens in the logit lens.

  Raises:
    ValueError: the text has no tokens, or top_k is too large.
  """
  given = text_lib.encode(vocabulary, text)
  written = text_lib.encode(vocabulary, targets)
  if not given:
    raise ValueError(f"text {text!r} has no tokens")
  vocab_size = model.transformer.vocab_size
  if top_k > vocab_size:
    raise ValueError(
      f"top_k={top_k} is more than the {vocab_size} tokens of the vocabulary"
    )
  batch = model.row_format.of_text(given, written)
  traces = probe(model, params, batch)
  pieces = {
    side: _pieces(vocabulary, batch[f"{side}_input_tokens"][0])
    for side in model.row_format.sides
  }
  last = list(traces)[-1]
  return Inspection(
    tokens={name: pieces[name.split("/")[0]] for name in traces},
    traces=traces,
    distances={
      name: cosine_distances(trace.states)[:, 0]
      for name, trace in traces.items()
    },
    lens=_lens(model, params, vocabulary, traces[last].states, top_k),
  )


def _lens(model, params, vocabulary, states, top_k):
  ids, probabilities = logit_lens(model, params, states[:, 0], top_k=top_k)
  return [
    [
      [
        (piece, round(float(p), 6))
        for piece, p in zip(_pieces(vocabulary, words), ps, strict=True)
      ]
      for words, ps in zip(*layer, strict=True)
    ]
    for layer in zip(ids, probabilities, strict=True)
  ]


def _pieces(vocabulary, ids) -> list[str]:
  """Returns a short text for each token: its id if it has no text."""
  pieces = []
  for token in map(int, ids):
    piece = text_lib.decode(vocabulary, [token]) if token else "<start>"
    pieces.append(piece.strip() or f"<{token}>")
  return pieces
