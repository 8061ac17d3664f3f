"""Embeds texts: the mean of a model's last hidden states over their tokens."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.data import rows
from t5x_lite.devices.layout import Layout
from t5x_lite.inference import batched
from t5x_lite.inference.jobs import Codec
from t5x_lite.model import Model, Params
from t5x_lite.row_formats import token_info


def embed(
  model: Model,
  params: Params,
  codec: Codec,
  texts: Sequence[str],
  *,
  batch_size: int = 32,
  layout: Layout | None = None,
) -> np.ndarray:
  """Returns the mean last hidden state of each text, float32 [texts, width].

  The states are those of the encoder, if there is one, or else of the decoder,
  after the final norm. The mean is over the tokens that the stack reads: those
  of the text, and the special tokens around it.

  Args:
    model: of any architecture that has a codec.
    params: its parameters.
    codec: encodes the texts, as inputs.
    texts: what to embed.
    batch_size: texts per batch.
    layout: the devices; None means one device.

  Raises:
    ValueError: a text is too long.
  """
  limit = codec.room_for_inputs(0)
  examples = []
  for i, text in enumerate(texts, 1):
    ids = codec.encode("inputs", text, f"text {i}", limit)
    examples.append(codec.row_format.reading_example(ids))
  batch_size = batched.round_up(min(batch_size, max(len(texts), 1)), layout)
  lengths = {"inputs": limit, "targets": 1}
  starts = rows.starts(codec.inputs.vocabulary)

  def batches():
    for first in range(0, len(examples), batch_size):
      part = examples[first : first + batch_size]
      ids = np.arange(first, first + len(part), dtype=np.int32)
      yield ids, rows.lay_out(codec.row_format, part, lengths, **starts)

  def compute(batch, row_ids):
    del row_ids
    return {"means": _means(model, params, batch)}

  found = [
    results["means"]
    for _, results in batched.compute(
      compute, batches(), batch_size=batch_size, layout=layout
    )
  ]
  width = model.transformer.top_width
  return np.concatenate(found) if found else np.zeros((0, width), np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _means(model, params, batch):
  side = model.row_format.sides[0]

  def forward(transformer):
    ids, tokens = batch[f"{side}_input_tokens"], token_info(batch, side)
    if side == "encoder":
      return transformer.encode(ids, tokens)
    return transformer.decode(ids, tokens)[0], tokens

  states_BTD, tokens = nn.apply(forward, model.transformer)({"params": params})
  weights_BT = (tokens.segment > 0).astype(jnp.float32)
  sums_BD = jnp.einsum("BT,BTD->BD", weights_BT, states_BTD.astype(jnp.float32))
  return sums_BD / jnp.maximum(weights_BT.sum(axis=1, keepdims=True), 1.0)
