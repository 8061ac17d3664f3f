"""Trains or runs a model of `transformers`, a step per line of stdin.

The process that `peer.Peer` starts. It loads nothing of JAX, whose threads and
settings of the C library would change its speed. The first line of stdin is a
JSON object of settings; each answer is a JSON object on a line.
"""

import json
import os
import sys
import time


def main():
  """Builds the model, works once, and then once for each line."""
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
  make = {"train": _training, "generate": _generation}[settings["work"]]
  work = make(torch, model, config, settings)
  work("1")
  _say(
    parameters=sum(p.numel() for p in model.parameters()),
    attention=config._attn_implementation,
    versions=f"transformers {transformers.__version__}, "
    f"torch {torch.__version__}",
  )
  for line in sys.stdin:
    begun, cpu = time.perf_counter(), time.process_time()
    found = work(line)
    _say(
      seconds=time.perf_counter() - begun,
      cpu_seconds=time.process_time() - cpu,
      **found,
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


def _training(torch, model, config, settings):
  """Returns a function that takes a step of AdamW and returns the loss."""
  model.train()
  batch = _batch(torch, config, settings)
  # fused: the fastest of torch's, and the default of transformers' Trainer.
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-3, weight_decay=0.1, fused=True
  )

  def step(_):
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": loss.item()}

  return step


def _generation(torch, model, config, settings):
  """Returns a function that generates as many tokens as its line says."""
  model.eval()
  shape = settings["batch_size"], settings["lengths"]["inputs"]
  ids = torch.randint(2, config.vocab_size, shape)
  plain = model.generation_config
  plain.eos_token_id, plain.pad_token_id = None, 0
  if config.is_encoder_decoder:
    plain.decoder_start_token_id = 0

  def generate(line):
    with torch.inference_mode():
      model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1,
        max_new_tokens=int(line),
      )  # fmt: skip
    return {}

  return generate


def _say(**found):
  # Not print: libraries print too.
  os.write(_ANSWERS, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
  _ANSWERS = os.dup(1)
  os.dup2(2, 1)
  main()
