"""How a decoder reads prompts, and goes on from there.

Functions of a Transformer and of `run`, which calls a function with that
Transformer bound to its parameters; t5x_lite/model.py calls them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.nn import attention_rules
from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.caches import Caching, without_tokens_from
from t5x_lite.nn.decode_state import DecodeState
from t5x_lite.nn.transformer import Transformer

Run = Callable[[Callable], Any]


def prefill_decoder_of_encoder(
  transformer: Transformer,
  run: Run,
  encoded_BSD: jax.Array,
  source: TokenInfo,
  start_B: jax.Array,
  *,
  max_new_tokens: int,
  caching: Caching,
) -> tuple[jax.Array, DecodeState, jax.Array]:
  """Reads each row's start token; see Model.prefill."""
  rows, length, _ = encoded_BSD.shape
  cache = transformer.decoder.empty_cache(
    rows, max_new_tokens, source_length=length,
    dtype=caching.dtype or transformer.dtype, chunk=caching.prefill_chunk,
  )  # fmt: skip
  zeros_B1 = jnp.zeros((rows, 1), jnp.int32)
  first = TokenInfo(zeros_B1, zeros_B1, zeros_B1 + 1, zeros_B1 > 0)
  state = DecodeState(cache, jnp.int32(0), first, source)
  logits_B1V, state, hidden_B1D = step(
    transformer, run, state, start_B[:, None], source_BSD=encoded_BSD
  )
  return logits_B1V[:, 0], state, hidden_B1D


def prefill_decoder_only(
  transformer: Transformer,
  run: Run,
  ids_BT: jax.Array,
  tokens: TokenInfo,
  *,
  max_new_tokens: int,
  caching: Caching,
) -> tuple[jax.Array, DecodeState, jax.Array]:
  """Reads the prompts, the tokens of the prefix; see Model.prefill."""
  rows, length = ids_BT.shape
  tokens = tokens._replace(segment=tokens.prefix.astype(jnp.int32))
  tokens = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (rows, *x.shape[1:])), tokens
  )
  # The last token of the prompt, on whichever side the padding is.
  from_end_B = jnp.argmax(tokens.prefix[:, ::-1], axis=1)
  any_B = jnp.any(tokens.prefix, axis=1)
  last_B = jnp.where(any_B, length - 1 - from_end_B, 0)

  cache = transformer.decoder.empty_cache(
    rows, length + max_new_tokens,
    dtype=caching.dtype or transformer.dtype, chunk=caching.prefill_chunk,
  )  # fmt: skip
  chunk = min(caching.prefill_chunk or length, length)
  if chunk < length:
    _check_no_lookahead(transformer.decoder, chunk)

  def read(cache, start, size):
    """Reads `size` columns from `start` on."""
    part = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1),
      (ids_BT, tokens),
    )
    return run(lambda bound: bound.decode(*part, cache=cache, slot=start))

  # The chunk that is not whole comes first, so that no slot is lost.
  first = length % chunk or chunk
  hidden_BTD, cache = read(cache, jnp.int32(0), first)

  def read_further(i, kept):
    hidden_BTD, cache = kept
    start = first + i * chunk
    new_BTD, cache = read(cache, start, chunk)
    return jax.lax.dynamic_update_slice_in_dim(
      hidden_BTD, new_BTD, start, axis=1
    ), cache

  if rest := (length - first) // chunk:
    hidden_BTD = jnp.pad(hidden_BTD, [(0, 0), (0, length - first), (0, 0)])
    hidden_BTD, cache = jax.lax.fori_loop(
      0, rest, read_further, (hidden_BTD, cache)
    )

  def last(x_BT):
    places = last_B.reshape(rows, *(1,) * (x_BT.ndim - 1))
    return jnp.take_along_axis(x_BT, places, axis=1)

  following = transformer.decoder.position.following(jax.tree.map(last, tokens))
  following = following._replace(prefix=jnp.zeros_like(following.prefix))
  state = DecodeState(cache, jnp.int32(length), following, None)
  states_B1D = last(hidden_BTD)
  logits_BV = run(lambda bound: bound.logits(states_B1D))[:, 0]
  return logits_BV, state, hidden_BTD


def _check_no_lookahead(decoder, chunk):
  rules = [layer.rule or stack.rule for stack in decoder.stacks
           for layer in stack.period]  # fmt: skip
  for rule in rules:
    if attention_rules.looks_ahead(rule):
      raise ValueError(
        f"prefill_chunk ({chunk}) splits the prompt, but the attention rule "
        f"{rule} reads it as a whole: use prefill_chunk=None"
      )


def step(
  transformer: Transformer,
  run: Run,
  state: DecodeState,
  tokens_BT: jax.Array,
  *,
  lengths_B: jax.Array | None = None,
  source_BSD: jax.Array | None = None,
) -> tuple[jax.Array, DecodeState, jax.Array]:
  """Appends tokens to each row; see Model.decode_tokens."""
  rows, length = tokens_BT.shape
  following = transformer.decoder.position.following
  here = state.next
  if length > 1:
    here = following(here, jnp.arange(length))
    here = jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, length)), here)
  if lengths_B is None:
    advance, slot = length, state.slot + length
  else:
    real_BT = jnp.arange(length) < lengths_B[:, None]
    # A position beyond the learned ones would be NaN, which no mask hides.
    here = here._replace(
      position=jnp.where(real_BT, here.position, 0),
      segment=jnp.where(real_BT, here.segment, 0),
      features=jax.tree.map(lambda x: jnp.where(real_BT, x, 0), here.features),
    )
    advance, slot = lengths_B[:, None], state.slot + lengths_B
  source = {}
  if state.source is not None:
    source = {"source_BSD": source_BSD, "source_tokens": state.source}

  def forward(bound):
    hidden_BTD, cache = bound.decode(
      tokens_BT, here, cache=state.cache, slot=state.slot, **source
    )
    return bound.logits(hidden_BTD), cache, hidden_BTD

  logits_BTV, cache, hidden_BTD = run(forward)
  state = DecodeState(cache, slot, following(state.next, advance), state.source)
  return logits_BTV, state, hidden_BTD


def roll_back(
  transformer: Transformer, state: DecodeState, count_B: jax.Array
) -> DecodeState:
  """Takes back the last tokens of each row; see Model.roll_back."""
  following = transformer.decoder.position.following
  back = following(state.next, -count_B[:, None])
  cache = without_tokens_from(state.cache, back.index)
  return state._replace(cache=cache, slot=state.slot - count_B, next=back)
