"""Lays out examples of any length in rows of fixed length."""

from collections.abc import Mapping

import tensorflow as tf

# Examples laid out at a time: enough to amortise TensorFlow's cost per
# operation, few enough to keep checkpoints of the iterator small.
_WINDOW = 32


def side_of(feature: str) -> str:
  """Returns which side of a row a model feature is in: its first word."""
  return feature.split("_", 1)[0]


def lay_out(
  ds: tf.data.Dataset, row_lengths: Mapping[str, int], *, pack: bool
) -> tf.data.Dataset:
  """Lays out examples in rows of fixed length: one or, packed, several each.

  Packing keeps the order of the examples (next fit): a row takes the next
  example if each of its sides has room for it; otherwise the row is closed. No
  token is dropped, token ids do not matter, and the open row is part of the
  iterator's checkpoints. With room for 5, examples of 2, 3, 4 and 1 tokens are

    a a b b b | c c c c d        segment ids 1 1 2 2 2 | 1 1 1 1 2

  Args:
    ds: examples, dicts of int32 vectors. All features of a side, "SIDE_*",
      have one length.
    row_lengths: the length of each side. Reading a longer example raises an
      error.
    pack: whether a row takes more than one example.

  Returns:
    Rows with the same features, and "SIDE_segment_ids" and, unless the
    examples have their own, "SIDE_positions".
  """
  names = sorted(ds.element_spec)
  windows = ds.ragged_batch(_WINDOW).map(
    _plain(lambda window: _flatten(window, names, row_lengths)),
    num_parallel_calls=tf.data.AUTOTUNE,
  )
  if not pack:

    def one_each(tokens, sizes):
      bounds = tf.range(_count(sizes) + 1)
      return _rows(tokens, sizes, bounds, names, row_lengths)

    rows = windows.map(_plain(one_each), num_parallel_calls=tf.data.AUTOTUNE)
    return rows.unbatch()

  window_spec = windows.element_spec
  empty = tf.nest.map_structure(
    lambda spec: tf.zeros([0, *spec.shape[1:]], tf.int32), window_spec
  )
  end = tf.data.Dataset.from_tensors((*empty, True))
  windows = windows.map(_plain(lambda *window: (*window, False)))
  windows = windows.concatenate(end)

  # `scan` traces its function twice, as the state's size changes; a tf.function
  # is traced once.
  @tf.function(
    input_signature=[window_spec, (*window_spec, tf.TensorSpec([], tf.bool))],
    autograph=False,
  )
  def fill(open_row, window):
    *window, is_end = window
    tokens, sizes = tf.nest.map_structure(
      lambda *parts: tf.concat(parts, axis=0), open_row, tuple(window)
    )
    bounds = _next_fit(sizes, row_lengths)
    # The last row stays open for the examples of the next window.
    bounds = bounds[: tf.size(bounds) - tf.cast(~is_end, tf.int32)]
    closed = bounds[-1]
    open_row = (
      {
        side: token[tf.reduce_sum(sizes[side][:closed]) :]
        for side, token in tokens.items()
      },
      {side: size[closed:] for side, size in sizes.items()},
    )
    return open_row, _rows(tokens, sizes, bounds, names, row_lengths)

  return windows.scan(empty, fill).unbatch()


# A window is two dicts by side: the features of all its tokens, concatenated,
# [tokens, features], and the examples' sizes, [examples]. It is laid out by a
# fixed number of operations, whatever the number of examples and features.


def _flatten(window, names, row_lengths):
  """Converts a ragged batch to a window."""
  features = {side: [] for side in row_lengths}
  sizes = {}
  for name in names:
    feature = window[name]
    # Examples whose length is known statically arrive as a dense array.
    if not isinstance(feature, tf.RaggedTensor):
      feature = tf.RaggedTensor.from_tensor(feature)
    features[side_of(name)].append(feature.values)
    sizes[side_of(name)] = tf.cast(feature.row_lengths(), tf.int32)
  for side, length in row_lengths.items():
    longest = tf.reduce_max(sizes[side])
    room = f"{side} tokens, a row has room for {length}"
    tf.debugging.Assert(longest <= length, ["an example has", longest, room])
  tokens = {side: tf.stack(parts, -1) for side, parts in features.items()}
  return tokens, sizes


def _count(sizes) -> tf.Tensor:
  return tf.size(next(iter(sizes.values())))


def _next_fit(sizes, row_lengths) -> tf.Tensor:
  """Returns the index of each row's first example, and the example count."""
  count = _count(sizes)
  # after[i]: the first example with no room in a row that begins with i.
  after = tf.fill([count], count)
  for side, size in sizes.items():
    ends = tf.cumsum(size)
    room = ends - size + row_lengths[side]
    after = tf.minimum(after, tf.searchsorted(ends, room, side="right"))

  def step(example, rows, bounds):
    return after[example], rows + 1, bounds.write(rows + 1, after[example])

  bounds = tf.TensorArray(tf.int32, 1, dynamic_size=True, element_shape=[])
  *_, bounds = tf.while_loop(
    lambda example, *_: example < count,
    step,
    (0, 0, bounds.write(0, 0)),
  )
  return bounds.stack()


def _rows(tokens, sizes, bounds, names, row_lengths) -> dict[str, tf.Tensor]:
  """Lays out a window: row r has the examples bounds[r]:bounds[r + 1]."""
  rows = {}
  example = tf.range(bounds[-1])
  row = tf.searchsorted(bounds, example, side="right") - 1
  segment = example - tf.gather(bounds, row) + 1
  for side, size in sizes.items():
    ends = tf.cumsum(size)
    splits = tf.gather(tf.pad(ends, [[1, 0]]), bounds)
    index = tf.range(splits[-1])
    owner = tf.searchsorted(ends, index, side="right")
    made = [tf.gather(segment, owner), index - tf.gather(ends - size, owner)]
    flat = tf.concat([tokens[side][: splits[-1]], tf.stack(made, -1)], axis=-1)
    ragged = tf.RaggedTensor.from_row_splits(flat, splits, validate=False)
    dense = ragged.to_tensor(shape=[None, row_lengths[side], None])
    made_names = [f"{side}_segment_ids", f"{side}_positions"]
    own = [name for name in names if side_of(name) == side]
    columns = tf.unstack(dense, len(own) + 2, axis=-1)
    # The examples' own features come last and override those made here.
    rows |= dict(
      zip([*made_names, *own], columns[-2:] + columns[:-2], strict=True)
    )
  return rows


# Tracing is several times faster without AutoGraph's conversion.
_plain = tf.autograph.experimental.do_not_convert
