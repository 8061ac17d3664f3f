"""Trains a model of `transformers`, one step per line of stdin, in PyTorch.

The process that `peer.Peer` starts. It loads nothing of JAX, whose threads and
settings of the C library would change its speed. The first line of stdin is a
JSON object of settings; each answer is a JSON object on a line.
"""

import json
import os
import sys
import time


def main():
  """Builds the model, takes one step, and then one for each line."""
  settings = json.loads(sys.stdin.readline())
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  options = settings["options"]
  config = transformers.AutoConfig.for_model(**options)
  torch.manual_seed(0)
  model = getattr(transformers, options["architectures"][0])(config)
  if not options.get("tie_word_embeddings", True):
    _untie(torch, model)
  model.train()
  batch = _batch(torch, config, settings)
  step = _step(torch, model, batch, settings)
  step()
  _say(
    parameters=sum(p.numel() for p in model.parameters()),
    attention=config._attn_implementation,
    versions=f"transformers {transformers.__version__}, "
    f"torch {torch.__version__}",
  )
  for _ in sys.stdin:
    begun, cpu = time.perf_counter(), time.process_time()
    loss = step()
    _say(
      seconds=time.perf_counter() - begun,
      cpu_seconds=time.process_time() - cpu,
      loss=loss,
    )


def _untie(torch, model):
  """Gives the head weights of its own: transformers 5 ties those of any T5."""
  head = model.get_output_embeddings()
  if head is not None and head.weight is model.get_input_embeddings().weight:
    head.weight = torch.nn.Parameter(head.weight.detach().clone())


def _batch(torch, config, settings):
  lengths, rows = settings["lengths"], settings["batch_size"]

  def draw(length):
    return torch.randint(2, config.vocab_size, (rows, length))

  if not config.is_encoder_decoder:
    ids = draw(sum(lengths.values()))
    return {"input_ids": ids, "labels": ids}
  if config.decoder_start_token_id is None:
    config.decoder_start_token_id = 0
  return {
    "input_ids": draw(lengths["inputs"]),
    "labels": draw(lengths["targets"]),
  }


def _step(torch, model, batch, settings):
  """Returns a function that takes a step of AdamW and returns the loss."""
  # fused: the fastest of torch's, and the default of transformers' Trainer.
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-3, weight_decay=0.1, fused=True
  )

  def step():
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()

  return step


def _say(**found):
  # Not print: libraries print too.
  os.write(_ANSWERS, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
  _ANSWERS = os.dup(1)
  os.dup2(2, 1)
  main()
