"""Patterns move dims as the reference code of each layout reads them."""

import numpy as np
import pytest

from t5x_lite.interop import patterns

D, N, K, H, F = 5, 6, 2, 3, 4


def numbered(*shape):
  return np.arange(np.prod(shape)).reshape(shape)


def test_linear_into_heads_computes_what_torch_does():
  theirs = numbered(N * H, D)
  (ours,) = patterns.parse("(N H) D -> D N H").split(theirs, [(D, N, H)])
  x = numbered(D)
  expected = (theirs @ x).reshape(N, H)
  np.testing.assert_array_equal(np.einsum("D,DNH->NH", x, ours), expected)


def test_linear_out_of_heads_computes_what_torch_does():
  theirs = numbered(D, N * H)
  (ours,) = patterns.parse("D (N H) -> N H D").split(theirs, [(N, H, D)])
  x = numbered(N, H)
  expected = theirs @ x.reshape(-1)
  np.testing.assert_array_equal(np.einsum("NH,NHD->D", x, ours), expected)


def test_three_in_a_row_come_apart_as_gpt2_splits_them():
  theirs = numbered(D, 3 * N * H)  # Conv1D: [in, out].
  pattern = patterns.parse("D ([1 1 1] N H) -> D N H", 3)
  ours = pattern.split(theirs, [(D, N, H)] * 3)
  for part, expected in zip(ours, np.split(theirs, 3, axis=1), strict=True):
    np.testing.assert_array_equal(part, expected.reshape(D, N, H))


def test_three_of_each_head_come_apart_as_neox_views_them():
  theirs = numbered(N * 3 * H, D)
  pattern = patterns.parse("(N [1 1 1] H) D -> D N H", 3)
  ours = pattern.split(theirs, [(D, N, H)] * 3)
  x = numbered(D)
  heads = (theirs @ x).reshape(N, 3 * H)
  for i, part in enumerate(ours):
    expected = heads[:, i * H : (i + 1) * H]
    np.testing.assert_array_equal(np.einsum("D,DNH->NH", x, part), expected)


def test_groups_come_apart_as_falcon_views_them():
  group = N // K
  theirs = numbered(K * (group + 2) * H, D)
  pattern = patterns.parse("(K [G 1 1] H) D -> D (K G) H, D K H, D K H", 3)
  query, key, value = pattern.split(theirs, [(D, N, H), (D, K, H), (D, K, H)])
  x = numbered(D)
  heads = (theirs @ x).reshape(K, group + 2, H)
  expected = heads[:, :group].reshape(N, H)
  np.testing.assert_array_equal(np.einsum("D,DNH->NH", x, query), expected)
  for i, part in ((group, key), (group + 1, value)):
    found = np.einsum("D,DNH->NH", x, part)
    np.testing.assert_array_equal(found, heads[:, i])


def test_halves_come_apart_as_glm_chunks_them():
  theirs = numbered(2 * F, D)
  pattern = patterns.parse("[F F] D -> D F", 2)
  gate, linear = pattern.split(theirs, [(D, F)] * 2)
  np.testing.assert_array_equal(gate, theirs[:F].T)
  np.testing.assert_array_equal(linear, theirs[F:].T)


@pytest.mark.parametrize(
  ("text", "shapes"),
  [
    ("(N H) D -> D N H", [(D, N, H)]),
    ("D (N H) -> N H D", [(N, H, D)]),
    ("([1 1 1] N H) -> N H", [(N, H)] * 3),
    ("(N [1 1 1] H) D -> D N H", [(D, N, H)] * 3),
    ("([N K K] H) D -> D N H, D K H, D K H", [(D, N, H)] + [(D, K, H)] * 2),
    ("(K [G 1 1] H) -> (K G) H, K H, K H", [(N, H)] + [(K, H)] * 2),
    ("[F F] D -> D F", [(D, F)] * 2),
  ],
)
def test_join_undoes_split(text, shapes):
  pattern = patterns.parse(text, len(shapes))
  theirs = numbered(*pattern.shape(shapes))
  assert theirs.size == sum(map(np.prod, shapes))
  ours = pattern.split(theirs, shapes)
  assert [x.shape for x in ours] == shapes
  np.testing.assert_array_equal(pattern.join(ours), theirs)


def test_pattern_that_loses_an_axis_is_refused():
  with pytest.raises(AssertionError, match="lost"):
    patterns.parse("(N H) D -> D N")
