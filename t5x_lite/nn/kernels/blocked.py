"""Attention for CPUs, by blocks of queries that read only keys they may see.

A row is cut into at most eight blocks, unrolled, so that the keys of each are
known while compiling: eight blocks of a causal row make 9/16 of all products of
queries and keys. The probabilities are kept for the backward pass, not yet
divided by their sums: outputs and gradients are divided instead, [T, H] in
place of [T, S] (Dao 2023, arXiv:2307.08691, section 3.1).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_lite.nn import remat
from t5x_lite.nn.kernels import partition
from t5x_lite.nn.kernels.einsum import HIDDEN, sum_to
from t5x_lite.nn.kernels.visibility import Pattern, Visibility

# 128 queries: with fewer, products of matrices are slower; with more, causal
# rows compute more pairs that are hidden.
_LEAST_QUERIES = 128
_MOST_BLOCKS = 8


def attend(
  q_BNTH: jax.Array,
  k_BKSH: jax.Array,
  v_BKSH: jax.Array,
  *,
  visibility: Visibility,
  bias: jax.Array | None = None,
  scale: float,
  soft_cap: float | None = None,
  sink_N: jax.Array | None = None,
) -> jax.Array:
  """Attends as einsum.attend does, which has the arguments.

  Args:
    visibility: of a pattern. Tokens are where they stand in the arrays: their
      indices count from 0, as they do in training.
    bias: [B or 1, N or 1, T, S].
  """
  batch, num_heads = q_BNTH.shape[:2]
  k_BKSH, v_BKSH, kv_axes = partition.keys_for_heads(k_BKSH, v_BKSH, num_heads)

  def of_rows(x):
    x = None if x is None else jnp.broadcast_to(x, (batch, x.shape[1]))
    return x, ("batch", None)

  key_segment = visibility.key_segment_BS
  bias_axes = None
  if bias is not None:
    sharded = zip(bias.shape, ("batch", "heads"), strict=False)
    bias_axes = (*(None if n == 1 else a for n, a in sharded), None, None)
  out_BNTH = partition.per_device(
    functools.partial(_attend, visibility.pattern, soft_cap),
    (q_BNTH * scale, partition.QUERIES),
    (k_BKSH, kv_axes),
    (v_BKSH, kv_axes),
    of_rows(visibility.query_segment_BT),
    # Padding, segment 0, is equal to no query's.
    of_rows(jnp.where(key_segment == 0, -1, key_segment)),
    of_rows(visibility.prefix_BS),
    (bias, bias_axes),
    (sink_N, ("heads",)),
  )
  sees_BT = visibility.sees_any()[:, None, :, None]
  return remat.context(jnp.where(sees_BT, out_BNTH, 0))


class Block(NamedTuple):
  """A block of queries, and the keys that some of them may see."""

  queries: slice
  keys: slice


def blocks(pattern: Pattern, length: int, key_length: int) -> list[Block]:
  """Cuts a row of queries into blocks."""
  number = min(_MOST_BLOCKS, -(-length // _LEAST_QUERIES))
  size = -(-length // number)
  found = []
  for first in range(0, length, size):
    end = min(first + size, length)
    first_key, end_key = pattern.reach(first, end, key_length)
    found.append(Block(slice(first, end), slice(first_key, end_key)))
  return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(pattern, soft_cap, *arrays):
  return _forward(pattern, soft_cap, *arrays)[0]


def _forward(pattern, soft_cap, q_BNTH, k_BKSH, v_BKSH, *rest):
  *tokens, bias, sink_N = rest
  heads = k_BKSH.shape[1]
  outs, kept = [], []
  for block in blocks(pattern, q_BNTH.shape[2], k_BKSH.shape[2]):
    q_BKMH = _fold(q_BNTH, heads, block)
    logits = jnp.einsum(
      "BKMH,BKSH->BKMS", q_BKMH, k_BKSH[:, :, block.keys],
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    folded = logits.shape
    seen_BTS = _seen(pattern, block, *tokens)
    logits = logits.reshape(*folded[:2], -1, *seen_BTS.shape[1:])
    capped = None
    if soft_cap is not None:
      logits = capped = soft_cap * jnp.tanh(logits / soft_cap)
    if bias is not None:
      logits += _grouped(bias, heads)[..., block.queries, block.keys]
    logits = jnp.where(seen_BTS[:, None, None], logits, HIDDEN)
    # float32: a bfloat16 softmax loses mass past 4k keys.
    most = jnp.max(logits, axis=-1, keepdims=True)
    if sink_N is not None:
      sink = sink_N.reshape(heads, -1, 1, 1)
      most = jnp.maximum(most, sink)
    exp = jnp.exp(logits - most)
    total = jnp.sum(exp, axis=-1, keepdims=True)
    sunk = None
    if sink_N is not None:
      sunk = jnp.exp(sink - most)
      total += sunk
    exp = exp.astype(v_BKSH.dtype).reshape(folded)
    total = total.reshape(*folded[:3], 1)
    out_BKMH = jnp.einsum("BKMS,BKSH->BKMH", exp, v_BKSH[:, :, block.keys])
    outs.append(_unfold((out_BKMH / total).astype(q_BNTH.dtype), q_BNTH))
    kept.append((exp, total, capped, sunk))
  out_BNTH = jnp.concatenate(outs, axis=2)
  return out_BNTH, (q_BNTH, k_BKSH, v_BKSH, bias, sink_N, out_BNTH, kept)


def _backward(pattern, soft_cap, residuals, g_BNTH):
  """Never transposes an array of T x S: only the thin T x H ones."""
  q_BNTH, k_BKSH, v_BKSH, bias, sink_N, out_BNTH, kept = residuals
  f32, (heads, length) = jnp.float32, k_BKSH.shape[1:3]
  dqs, dbiases, dsink_N = [], [], None
  dk = dv = jnp.zeros_like(k_BKSH, f32).swapaxes(-1, -2)
  cut = blocks(pattern, q_BNTH.shape[2], length)
  for block, (exp, total, capped, sunk) in zip(cut, kept, strict=True):
    q, g, out = (_fold(x, heads, block) for x in (q_BNTH, g_BNTH, out_BNTH))
    k, v = k_BKSH[:, :, block.keys], v_BKSH[:, :, block.keys]
    g = g.astype(f32) / total
    # sum_s p dp = g . out, without another pass over T x S.
    inner = jnp.sum(g * out.astype(f32), axis=-1, keepdims=True)
    g = g.astype(exp.dtype)
    dp = jnp.einsum("BKMH,BKSH->BKMS", g, v, preferred_element_type=f32)
    dlogits = exp.astype(f32) * (dp - inner)
    grouped = (*dlogits.shape[:2], -1, block.queries.stop - block.queries.start)
    if bias is not None:
      dbias = dlogits.reshape(*grouped, dlogits.shape[-1])
      # The barrier sums now: fused into what adds up the layers, the sum would
      # keep the scores of every layer alive.
      dbias = jax.lax.optimization_barrier(
        sum_to((*_grouped(bias, heads).shape[:3], *dbias.shape[3:]), dbias)
      )
      around = (block.keys.start, length - block.keys.stop)
      dbiases.append(jnp.pad(dbias, [(0, 0)] * 4 + [around]))
    if soft_cap is not None:
      dlogits *= 1 - jnp.square(capped / soft_cap).reshape(dlogits.shape)
    dlogits = dlogits.astype(q.dtype)
    dq = jnp.einsum("BKMS,BKSH->BKMH", dlogits, k)
    dqs.append(_unfold(dq, q_BNTH))
    dk = dk.at[..., block.keys].add(jnp.einsum("BKMH,BKMS->BKHS", q, dlogits))
    dv = dv.at[..., block.keys].add(jnp.einsum("BKMH,BKMS->BKHS", g, exp))
    if sink_N is not None:
      dsink = -sunk.reshape(inner.shape) * inner
      dsink = jnp.sum(dsink.reshape(grouped), axis=(0, 3)).reshape(-1)
      dsink_N = dsink if dsink_N is None else dsink_N + dsink
  dbias = None
  if bias is not None:
    dbias = jnp.concatenate(dbiases, axis=3).reshape(bias.shape)
  dk, dv = (x.swapaxes(-1, -2).astype(k_BKSH.dtype) for x in (dk, dv))
  dq_BNTH = jnp.concatenate(dqs, axis=2)
  return dq_BNTH, dk, dv, None, None, None, dbias, dsink_N


_attend.defvjp(_forward, _backward)


def _fold(x_BNTH, heads, block):
  """Returns a block [B, K, G * t, H]: heads that share keys are their rows."""
  b, _, _, h = x_BNTH.shape
  return x_BNTH[:, :, block.queries].reshape(b, heads, -1, h)


def _unfold(x_BKMH, like_BNTH):
  """Returns a block [B, N, t, H]."""
  b, n, _, h = like_BNTH.shape
  return x_BKMH.reshape(b, n, -1, h)


def _grouped(bias, heads):
  """Returns [B or 1, K or 1, G or 1, T, S]."""
  rows, n, *maps = bias.shape
  return bias.reshape(rows, 1 if n == 1 else heads, -1, *maps)


def _seen(pattern, block, query_segment_BT, key_segment_BS, prefix_BS):
  """Returns which keys of a block its queries see, bool [B, t, s]."""
  queries, keys = block
  seen = query_segment_BT[:, queries, None] == key_segment_BS[:, None, keys]
  distance = jnp.arange(keys.start, keys.stop)
  distance -= jnp.arange(queries.start, queries.stop)[:, None]
  allowed = pattern.within(distance, distance)
  if allowed is None:
    return seen
  if prefix_BS is not None:
    allowed |= prefix_BS[:, None, keys]
  return seen & allowed
