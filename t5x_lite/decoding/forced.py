"""Forced phrases: how much of them a text has, and which beams go on.

Beams are grouped by how many forced tokens they have met, and the groups take
turns, so that those that meet one more are kept although they are less probable
(Post & Vilar 2018, arXiv:1804.06609, sections 3.1 and 3.2).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Phrase = tuple[int, ...]


class Forced:
  """Follows P phrases through texts, each by an automaton of its own.

  A phrase's state is how many of its tokens end the text, and stays at its
  length once the text has it (Knuth, Morris & Pratt 1977).
  """

  def __init__(self, phrases: Sequence[Phrase]):
    """Makes the automata.

    Args:
      phrases: token ids, each at least one.
    """
    self.length_P = np.array([len(phrase) for phrase in phrases])
    self.ids_U = np.unique(np.concatenate(phrases))
    self.after_PLU, self.next_PL = _automata(
      tuple(phrases), tuple(self.ids_U.tolist())
    )

  @property
  def total(self) -> int:
    """Returns the number of tokens of all phrases."""
    return int(self.length_P.sum())

  def states(self, tokens_NT: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the states after the first `step` tokens, int32 [N, P]."""
    start_NP = jnp.zeros((tokens_NT.shape[0], len(self.length_P)), jnp.int32)
    return jax.lax.fori_loop(
      0, step, lambda t, state_NP: self.after(state_NP, tokens_NT[:, t]),
      start_NP,
    )  # fmt: skip

  def after(self, state_NP: jax.Array, token_N: jax.Array) -> jax.Array:
    """Returns the states after one more token."""
    is_it_NU = token_N[:, None] == self.ids_U
    # The last column is that of all other tokens.
    kind_N = jnp.where(
      jnp.any(is_it_NU, axis=1), jnp.argmax(is_it_NU, axis=1), len(self.ids_U)
    )
    phrases_P = jnp.arange(len(self.length_P))
    return jnp.asarray(self.after_PLU)[phrases_P, state_NP, kind_N[:, None]]

  def next_tokens(self, state_NP: jax.Array) -> jax.Array:
    """Returns the token that goes on with each phrase; -1 where it is there."""
    phrases_P = jnp.arange(len(self.length_P))
    return jnp.asarray(self.next_PL)[phrases_P, state_NP]

  def needed(self, state_NP: jax.Array) -> jax.Array:
    """Returns how many tokens are enough to meet what is not met yet, [N].

    Of phrases that are not there as a whole, only the one that is nearest to
    its end counts: to go on with it breaks off the others.
    """
    is_whole_NP = state_NP == self.length_P
    whole_N = jnp.sum(jnp.where(is_whole_NP, self.length_P, 0), axis=1)
    begun_N = jnp.max(jnp.where(is_whole_NP, 0, state_NP), axis=1)
    return self.total - whole_N - begun_N


@functools.lru_cache(maxsize=8)
def _automata(phrases, ids):
  """Returns each state's next states [P, L, U] and next tokens [P, L]."""
  longest = max(map(len, phrases))
  after_PLU = np.zeros((len(phrases), longest + 1, len(ids) + 1), np.int32)
  next_PL = np.full((len(phrases), longest + 1), -1, np.int32)
  for p, phrase in enumerate(phrases):
    after_PLU[p, len(phrase) :] = len(phrase)
    next_PL[p, : len(phrase)] = phrase
    for state in range(len(phrase)):
      for kind, token in enumerate(ids):
        text = (*phrase[:state], token)
        after_PLU[p, state, kind] = max(
          n for n in range(len(text) + 1) if text[len(text) - n :] == phrase[:n]
        )
  return after_PLU, next_PL


def forced_candidates(
  forced: Forced,
  scores_BWV: jax.Array,
  tokens_BWT: jax.Array,
  step: jax.Array,
  left_B: jax.Array,
  end_ids: jax.Array,
  most: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns the continuations that go on, in the order in which they are taken.

  They are the best of all, the best of each beam, and those that go on with a
  phrase. In turn come the best of each group, the one that has met the most
  first; then the second best of each, and so on.

  Args:
    forced: the phrases.
    scores_BWV: of each continuation of each of W beams.
    tokens_BWT: what the beams have generated.
    step: how many tokens these are.
    left_B: how many tokens may follow the next one.
    end_ids: int32 [E], which end a text.
    most: how many of the best of all there are.

  Returns:
    places among the W * V continuations [B, K], and whether each may be taken.
  """
  rows, width, vocab_size = scores_BWV.shape
  state_NP = forced.states(tokens_BWT.reshape(rows * width, -1), step)
  unmet_BW1 = (forced.needed(state_NP) > 0).reshape(rows, width, 1)
  ends_V = jnp.isin(jnp.arange(vocab_size), end_ids)
  scores_BWV = jnp.where(unmet_BW1 & ends_V, -jnp.inf, scores_BWV)
  beam_W1 = jnp.arange(width)[:, None]
  best_BW1 = jnp.argmax(scores_BWV, axis=-1)[..., None]
  next_BWP = forced.next_tokens(state_NP).reshape(rows, width, -1)
  single_BWQ = jnp.concatenate([best_BW1, next_BWP], axis=-1)
  is_token_BWQ = single_BWQ >= 0
  single_BWQ = beam_W1 * vocab_size + jnp.maximum(single_BWQ, 0)
  scores_BN = scores_BWV.reshape(rows, -1)
  _, top_BC = jax.lax.top_k(scores_BN, most)
  place_BK = jnp.concatenate([top_BC, single_BWQ.reshape(rows, -1)], axis=1)
  is_usable_BK = jnp.concatenate(
    [jnp.ones_like(top_BC, bool), is_token_BWQ.reshape(rows, -1)], axis=1
  )
  score_BK = jnp.take_along_axis(scores_BN, place_BK, axis=1)
  row_NK = (place_BK // vocab_size + width * jnp.arange(rows)[:, None]).ravel()
  after_MP = forced.after(state_NP[row_NK], (place_BK % vocab_size).ravel())
  needed_BK = forced.needed(after_MP).reshape(place_BK.shape)
  is_usable_BK &= (score_BK > -jnp.inf) & (needed_BK <= left_B[:, None])
  # Of one that is among them more than once, the first.
  count = place_BK.shape[1]
  is_before_KK = jnp.tri(count, k=-1, dtype=bool)
  is_same_BKK = place_BK[:, :, None] == place_BK[:, None]
  is_again_BKK = is_same_BKK & is_usable_BK[:, None] & is_before_KK
  is_usable_BK &= ~jnp.any(is_again_BKK, axis=-1)

  is_better_BKK = score_BK[:, None] > score_BK[:, :, None]
  is_better_BKK |= (score_BK[:, None] == score_BK[:, :, None]) & is_before_KK
  in_group_BKK = needed_BK[:, None] == needed_BK[:, :, None]
  in_group_BKK &= is_usable_BK[:, None]
  turn_BK = jnp.sum(is_better_BKK & in_group_BKK, axis=-1)
  order_BK = turn_BK * (forced.total + 1) + needed_BK
  order_BK = jnp.where(is_usable_BK, order_BK, count * (forced.total + 1))
  order_BK = jnp.argsort(order_BK, axis=1, stable=True)
  return tuple(
    jnp.take_along_axis(x, order_BK, axis=1) for x in (place_BK, is_usable_BK)
  )
