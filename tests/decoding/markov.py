"""A model whose every probability is known: a Markov chain over tokens."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite import row_formats
from t5x_lite.losses import Term


class State(NamedTuple):
  """The state of a model that looks at the last token alone."""

  slot: jax.Array

  def take_rows(self, index, *, slots=None):
    del index, slots
    return self


@dataclasses.dataclass(frozen=True)
class Markov:
  """log p(next | last) = params["log_probs"][last]; has Model's methods."""

  architecture: str = "causal"
  on_step: Callable | None = None  # called on the host at each decode step

  @property
  def row_format(self):
    return row_formats.ALL[self.architecture]

  def prefill(self, params, batch, *, max_new_tokens):
    del max_new_tokens
    if self.row_format.name == "encoder_decoder":
      tokens, real = (
        batch["encoder_input_tokens"],
        batch["encoder_segment_ids"] > 0,
      )
    else:
      tokens, real = (
        batch["decoder_input_tokens"],
        batch["decoder_causal_attention"] > 0,
      )
    last = jnp.maximum(jnp.sum(real, axis=-1) - 1, 0)
    token = jnp.take_along_axis(tokens, last[:, None], axis=-1)[:, 0]
    return params["log_probs"][token], State(jnp.int32(0))

  def decode_step(self, params, state, tokens):
    if self.on_step is not None:
      jax.debug.callback(self.on_step)
    return params["log_probs"][tokens], State(state.slot + 1)

  def decode_tokens(self, params, state, tokens, *, lengths_B):
    return params["log_probs"][tokens], State(state.slot + lengths_B)

  def roll_back(self, state, count):
    return State(state.slot - count)

  def logits(self, params, batch):
    return params["log_probs"][batch["decoder_input_tokens"]]

  def score(self, params, batch):
    log_probs = jnp.take_along_axis(
      jax.nn.log_softmax(self.logits(params, batch)),
      batch["decoder_target_tokens"][..., None],
      axis=-1,
    )[..., 0]
    return jnp.sum(log_probs * batch["decoder_loss_weights"], axis=-1)

  def row_terms(self, params, batch):
    def row(one):
      return self.terms(params, jax.tree.map(lambda x: x[None], one))

    return jax.vmap(row)(dict(batch))

  def terms(self, params, batch):
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    logits = self.logits(params, batch)
    targets = batch["decoder_target_tokens"]
    correct = jnp.sum((jnp.argmax(logits, -1) == targets) * weights)
    weight = jnp.sum(weights)
    return {
      "loss": Term(-jnp.sum(self.score(params, batch)), weight),
      "accuracy": Term(correct, weight),
    }


def prompts(*rows, width=4):
  """Arranges prompts for a decoder: [0, *prompt], visible to each other."""
  tokens = [[0, *row] + [0] * (width - 1 - len(row)) for row in rows]
  inside = [[1] * (len(row) + 1) + [0] * (width - 1 - len(row)) for row in rows]
  tokens, inside = jnp.array(tokens, jnp.int32), jnp.array(inside, jnp.int32)
  return {
    "decoder_input_tokens": tokens,
    "decoder_segment_ids": inside,
    "decoder_positions": jnp.arange(width) * inside,
    "decoder_causal_attention": inside,
  }
