"""Prints what `bench --decode` measures."""

from launch import describe

_COLUMNS = {
  "batch": "batch_size",
  "copies": "copies",
  "first token ms": "first_token_ms",
  "prefill tokens/s": "prefill_tokens_per_s",
  "step ms": "step_ms",
  "tokens/s": "tokens_per_s",
  "% of bound": "pct_of_bound",
}
_OF_PEER = {
  "transformers: first token ms": "first_token_ms",
  "step ms": "step_ms",
  "tokens/s": "tokens_per_s",
  "ours / theirs": "ratio",
}


def text(result) -> str:
  """Returns the results of decode_bench.bench as a table."""
  lines = [
    f"{result['architecture']}, {result['parameters']:,} parameters, "
    f"{result['dtype']}, {result['device']}",
    f"prompts of {result['prompt_tokens']} tokens, {1 + result['new_tokens']} "
    f"new ones; memory read at {describe.quantity(result['bytes_per_s'])}B/s",
    "",
  ]
  rows = [[*_COLUMNS]]
  rows += [
    [f"{one[name]:,}" for name in _COLUMNS.values()]
    for one in result["batches"]
  ]
  if "against" in result["batches"][0]:
    rows[0] += [*_OF_PEER]
    for row, one in zip(rows[1:], result["batches"], strict=True):
      row += [f"{one['against'][name]:,}" for name in _OF_PEER.values()]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = (f"{x:>{w}}" for x, w in zip(row, widths, strict=True))
    lines.append("  ".join(cells))
  if len({one["copies"] for one in result["batches"]}) > 1:
    best = max(result["batches"], key=lambda one: one["tokens_per_s"])
    lines += [
      "",
      f"most tokens per second: --copies={best['copies']} "
      f"--batch_size={best['batch_size']}",
    ]
  return "\n".join(lines)
