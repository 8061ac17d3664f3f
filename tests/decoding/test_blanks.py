"""Blanks are filled as the model's own forward pass says."""

import jax
import numpy as np
import pytest

from t5x_lite import decoding, row_formats
from t5x_lite.data import rows
from t5x_lite.decoding import BlankByBlank, EasyFirst, Sample, generate
from t5x_lite.nn.positions import Learned2D, Rope
from tests import tiny

MASK, START, EOS, NEW = 36, 3, 1, 12


def masked():
  """Returns rows with 3, 0 and 2 masks, which are where the weights are 1."""
  batch = tiny.batch(tiny.encoder(num_layers=1), inputs=(7, 3, 5))
  weights = np.zeros_like(batch["encoder_loss_weights"])
  weights[[0, 0, 0, 2, 2], [1, 2, 6, 0, 3]] = 1
  ids = np.where(weights, MASK, batch["encoder_input_tokens"])
  batch |= {"encoder_loss_weights": weights, "encoder_input_tokens": ids}
  return {k: np.int32(v) for k, v in batch.items() if "target" not in k}


def filled_by_numpy(logits, batch, row, allowed, *, surest_first=True):
  """Fills a row's masks; returns the tokens and their log probabilities."""
  ids = batch["encoder_input_tokens"].copy()
  left = np.flatnonzero(batch["encoder_loss_weights"][row]).tolist()
  tokens, log_probs = {}, {}
  while left:
    all_TV = logits({**batch, "encoder_input_tokens": ids})[row]
    log_p = np.float64(all_TV) - np.log(np.exp(all_TV).sum(-1, keepdims=True))
    drawn = np.where(allowed, log_p, -np.inf)
    place = max(left, key=lambda i: drawn[i].max()) if surest_first else left[0]
    ids[row, place] = tokens[place] = drawn[place].argmax()
    log_probs[place] = log_p[place, tokens[place]]
    left.remove(place)
  return [[found[i] for i in sorted(found)] for found in (tokens, log_probs)]


def test_masks_are_filled_surest_first():
  model = tiny.encoder(num_layers=1)
  params, batch = tiny.random_params(model), masked()
  drawable = ~np.isin(np.arange(tiny.VOCAB), [0, MASK])
  out = generate(
    model, params, batch, max_new_tokens=4, sampler=EasyFirst(),
    drawable=drawable, constraints=decoding.Constraints(suppressed=[5]),
  )  # fmt: skip
  forward = tiny.jit(model.logits)
  allowed = drawable & (np.arange(tiny.VOCAB) != 5)

  def expected(row, **order):
    logits = lambda batch: np.asarray(forward(params, batch))  # noqa: E731
    return filled_by_numpy(logits, batch, row, allowed, **order)

  assert out.lengths.tolist() == [3, 0, 2]
  for row, length in enumerate(out.lengths.tolist()):
    tokens, log_probs = expected(row)
    assert out.tokens[row].tolist() == tokens + [0] * (4 - length)
    np.testing.assert_allclose(
      out.log_probs[row], log_probs + [0] * (4 - length), atol=1e-4
    )
  np.testing.assert_allclose(out.scores, out.log_probs.sum(1), atol=1e-4)
  # The order matters here.
  from_left = expected(0, surest_first=False)
  assert not np.allclose(out.log_probs[0, :3], from_left[1], atol=1e-2)


def test_drawn_masks_depend_on_their_row_alone():
  model = tiny.encoder(num_layers=1)
  params, batch = tiny.random_params(model), masked()
  sampler = EasyFirst(sampler=Sample(temperature=2.0))
  settings = {"max_new_tokens": 3, "sampler": sampler, "key": jax.random.key(2)}
  whole = generate(
    model, params, batch, row_ids=np.array([4, -1, 7]), **settings
  )
  index = np.array([2, 0, 0])
  taken = {name: values[index] for name, values in batch.items()}
  other = generate(
    model, params, taken, row_ids=np.array([7, -1, 4]), **settings
  )
  assert other.lengths.tolist() == [2, 0, 3]
  for mine, theirs in ((0, 2), (2, 0)):
    assert (whole.tokens[mine] == other.tokens[theirs]).all()


def test_constraints_on_the_order_of_tokens_are_refused_for_masks():
  model = tiny.encoder(num_layers=1)
  repetition = decoding.Constraints(
    repetition=decoding.Repetition(no_repeat_ngram_size=2)
  )
  with pytest.raises(ValueError, match="^repetition=.* has no meaning where"):
    generate(
      model, tiny.random_params(model), masked(), max_new_tokens=3,
      sampler=EasyFirst(), constraints=repetition,
    )  # fmt: skip


PROMPTS = [([7, 9, 8, 9, 6], [1, 3]), ([9, 5], [0]), ([4, 9, 9, 9], [1, 2, 3])]


def prompts():
  """Returns rows whose blanks are the tokens 9."""
  examples = [
    {
      "inputs": np.int32(ids),
      "targets": np.zeros(0, np.int32),
      "positions": np.int32(places),
    }
    for ids, places in PROMPTS
  ]
  return rows.lay_out(row_formats.PREFIX, examples, {"inputs": 6, "targets": 4})


def glm(position):
  model = tiny.prefix_lm()
  decoder = model.transformer.decoder.clone(position=position)
  transformer = model.transformer.clone(decoder=decoder)
  return model.__class__(transformer=transformer)


def in_training(prompt, places, tokens):
  """Lays out what was generated as the row that GLM trains on, figure 2 of
  arXiv:2103.10360, and returns the places in it that predict the tokens."""
  read, position, inside = (
    list(prompt),
    [*range(len(prompt))],
    [0] * len(prompt),
  )
  blanks, last = iter(places), EOS
  for token in tokens:
    starts = last == EOS
    if starts:
      place = next(blanks)
    read.append(START if starts else last)
    position.append(place)
    inside.append(1 if starts else inside[-1] + 1)
    last = token
  return {
    "decoder_input_tokens": read,
    "decoder_positions": position,
    "decoder_block_positions": inside,
    "decoder_causal_attention": [int(i == 0) for i in inside],
  }, range(len(prompt), len(read))


@pytest.mark.parametrize(
  "position, sampler",
  [(Learned2D(max_length=20, max_blank=NEW), Sample()),
   (Rope(), decoding.GREEDY)],
)  # fmt: skip
def test_blanks_are_filled_as_in_the_rows_that_are_trained_on(
  position, sampler
):
  model = glm(position)
  params = tiny.random_params(model)
  # Few tokens, so that blanks end.
  drawable = np.isin(np.arange(tiny.VOCAB), [EOS, 4, 20])
  out = generate(
    model, params, prompts(), max_new_tokens=NEW, eos_id=EOS,
    sampler=BlankByBlank(start_id=START, sampler=sampler),
    key=jax.random.key(5), drawable=drawable,
  )  # fmt: skip
  forward = tiny.jit(lambda batch: jax.nn.log_softmax(
    model.logits(params, batch)))  # fmt: skip
  filled = 0
  for row, (prompt, places) in enumerate(PROMPTS):
    tokens = out.tokens[row, : out.lengths[row]].tolist()
    ends = tokens.count(EOS)
    assert len(tokens) == NEW or (ends == len(places) and tokens[-1] == EOS)
    filled += ends
    whole, at = in_training(prompt, places, tokens)
    room = 6 + NEW - len(whole["decoder_input_tokens"])
    batch = {k: np.int32([v + [0] * room]) for k, v in whole.items()}
    log_probs = np.asarray(forward(batch))[0, at]
    np.testing.assert_allclose(
      out.log_probs[row, : len(tokens)],
      log_probs[range(len(tokens)), tokens], atol=1e-4,
    )  # fmt: skip
    if sampler == decoding.GREEDY:
      drawn = np.where(drawable, log_probs, -np.inf)
      assert drawn.argmax(-1).tolist() == tokens
  if sampler != decoding.GREEDY:
    assert filled >= 4, "too few blanks ended for this to show anything"
