"""Yields a text while it is generated, token by token.

Generation is one compiled loop. `Watched` puts a callback into each of its
steps, which gets the tokens and can end the rows.
"""

import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from t5x_lite import decoding

# What stands for a character whose bytes are not all there yet.
_INCOMPLETE = "\ufffd"
# Gets the tokens of each step, int32 [B]; returns whether rows end, bool [B].
_listeners: list[Callable[[np.ndarray], np.ndarray]] = []


@dataclasses.dataclass(frozen=True)
class Watched:
  """Wraps a model so that each of its decode steps reports its tokens.

  Attributes:
    model: predicts the tokens.
    end_id: the token that ends a row that is told to end; None: none does.
  """

  model: decoding.Predictor
  end_id: int | None

  def prefill(self, params, batch, **options):
    """Reads the prompts, as the model does."""
    return self.model.prefill(params, batch, **options)

  def decode_step(self, params, state, tokens_B):
    """Reports the tokens, and appends them as the model does."""
    shape = jax.ShapeDtypeStruct(tokens_B.shape, jnp.bool_)
    # Unordered: the next step needs its result, which keeps the order.
    ended_B = io_callback(_report, shape, tokens_B)
    logits_BV, state = self.model.decode_step(params, state, tokens_B)
    if self.end_id is None:
      return logits_BV, state
    end_V = jnp.arange(logits_BV.shape[-1]) == self.end_id
    end_BV = jnp.where(end_V, 0.0, -jnp.inf)[None]
    return jnp.where(ended_B[:, None], end_BV, logits_BV), state


def _report(tokens_B) -> np.ndarray:
  tokens_B = np.asarray(tokens_B)
  if not _listeners:  # A program that still runs after its reader has gone.
    return np.ones(tokens_B.shape, bool)
  return np.asarray(_listeners[-1](tokens_B), bool)


def stream(
  compute: Callable[[], Sequence[int]],
  read: Callable[[Sequence[int]], tuple[str, int | None]],
  stop: Sequence[str] = (),
) -> Iterator[str]:
  """Yields pieces of a text, whose concatenation is that of all tokens.

  Args:
    compute: generates one row with a `Watched` model; returns its tokens.
    read: returns the text of tokens, and not None if a stop string ends it
      (`Generate.read`).
    stop: the stop strings; pieces never have a part of one.
  """
  found: queue.SimpleQueue = queue.SimpleQueue()
  is_over = threading.Event()
  tokens: list[int] = []

  def listen(tokens_B):
    tokens.append(int(tokens_B[0]))
    found.put(list(tokens))
    return np.full(tokens_B.shape, is_over.is_set())

  def work():
    try:
      found.put(("end", compute()))
    except BaseException as error:
      found.put(("error", error))

  thread = threading.Thread(target=work, daemon=True)
  given = ""
  with _listening(listen):
    thread.start()
    try:
      while isinstance(event := found.get(), list):
        text, ends_at = read(event)
        sure = _sure(text, stop)
        if sure.startswith(given) and len(sure) > len(given):
          yield sure[len(given) :]
          given = sure
        if ends_at is not None:
          is_over.set()
      kind, result = event
      if kind == "error":
        raise result
      yield from filter(None, [read(result)[0][len(given) :]])
    finally:
      is_over.set()
      thread.join()


@contextlib.contextmanager
def _listening(listener):
  _listeners.append(listener)
  try:
    yield
  finally:
    _listeners.remove(listener)


def _sure(text: str, stop: Sequence[str]) -> str:
  """Returns the beginning of a text that later tokens do not change."""
  text = text.rstrip(_INCOMPLETE)
  longest = max(
    (
      size
      for end in stop
      for size in range(1, len(end))
      if text.endswith(end[:size])
    ),
    default=0,
  )
  return text[: len(text) - longest]


def is_streamable(sampler: Any) -> bool:
  """Tells whether tokens are final as soon as they are drawn."""
  return isinstance(sampler, decoding.Greedy | decoding.Sample)
