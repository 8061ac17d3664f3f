"""`bench --decode`: what it measures, and against whom."""

import pytest

from launch import decode_table
from t5x_lite.interop import huggingface
from t5x_lite.training import decode_bench
from tests import tiny


@pytest.mark.slow
def test_speeds_are_of_the_batch_and_of_the_peer():
  model = tiny.llama()
  _, options = huggingface.described(model.transformer)
  result = decode_bench.bench(
    model, batch_sizes=[1, 8], prompt_tokens=4, new_tokens=8, repeats=2,
    copies=[1], against=options,
  )  # fmt: skip
  assert [one["batch_size"] for one in result["batches"]] == [1, 8]
  for one in result["batches"]:
    # 1 prompt and its 9 new tokens take longer than its first token.
    per_row = 1e3 * 9 / one["tokens_per_s"] * one["batch_size"]
    assert per_row > one["first_token_ms"] > 0
    assert 0 < one["pct_of_bound"]
    ratio = one["tokens_per_s"] / one["against"]["tokens_per_s"]
    assert one["against"]["ratio"] == pytest.approx(ratio, abs=0.01)
    assert one["against"]["parameters"] == result["parameters"]
  lines = decode_table.text(result).splitlines()
  assert len({len(line) for line in lines[3:]}) == 1
  assert len(lines) == 4 + 2


def test_the_number_of_copies_that_gives_most_tokens_is_named():
  result = decode_bench.bench(
    tiny.llama(), batch_sizes=[1, 8], prompt_tokens=4, new_tokens=3, repeats=1,
    copies=[8, 1],
  )  # fmt: skip
  # One row is not divided among copies.
  assert [(one["batch_size"], one["copies"]) for one in result["batches"]] == [
    (1, 1), (8, 8), (8, 1),
  ]  # fmt: skip
  best = max(result["batches"], key=lambda one: one["tokens_per_s"])
  flags = f"--copies={best['copies']} --batch_size={best['batch_size']}"
  lines = decode_table.text(result).splitlines()
  assert lines[-2:] == ["", f"most tokens per second: {flags}"]


def test_a_step_reads_the_decoder_and_the_cache():
  model = tiny.llama()
  params = model.init(tiny.jax.random.key(0))
  read = decode_bench._bytes_read(model, params, 3, 4, 7)
  weights = sum(
    x.nbytes
    for k in ("decoder", "head")
    for x in tiny.jax.tree.leaves(params[k])
  )
  # 2 layers of keys and values, 2 kv heads of 6, 12 tokens of 3 rows, float32.
  assert read == weights + 2 * 2 * 2 * 6 * 12 * 3 * 4


def test_an_encoder_does_not_generate():
  with pytest.raises(ValueError, match="does not generate"):
    decode_bench.bench(
      tiny.ALL["encoder"](), batch_sizes=[1], prompt_tokens=2, new_tokens=2
    )
