"""What every family must share with `transformers`, on random weights.

    class TestGroupedQueries(parity.Parity):
      architecture = "LlamaForCausalLM"
      options = {"hidden_size": tiny.WIDTH, "num_key_value_heads": 2, ...}

    class TestTied(parity.Logits):  # An option that shows in the logits alone.
      architecture = "LlamaForCausalLM"
      options = {**TestGroupedQueries.options, "tie_word_embeddings": True}

Take sizes from tiny.py, where no two are equal, and tiny.VOCAB; LENGTH for
learned positions.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from t5x_lite.interop import Loaded, families, load_hf, save_hf
from t5x_lite.interop.config import Config
from tests import tiny

# Holds all of a batch in one row: what learned positions must reach.
LENGTH = 97

# Sizes that LLaMA and its relatives name alike.
LLAMA_SIZES = {
  "vocab_size": tiny.VOCAB,
  "hidden_size": tiny.WIDTH,
  "intermediate_size": tiny.HIDDEN,
  "num_hidden_layers": tiny.LAYERS,
  "num_attention_heads": tiny.HEADS,
  "num_key_value_heads": 2,
  "head_dim": tiny.HEAD_DIM,
}

# Of logits: an absolute one, and of gradients: relative to each leaf's largest.
LOGITS, GRADIENTS = 1e-4, 1e-4


@dataclasses.dataclass(frozen=True)
class Pair:
  """The same model twice: theirs, and ours as read from what they saved."""

  hf: Any
  ours: Loaded
  directory: Any

  def batch(self, **sizes) -> dict[str, np.ndarray]:
    """Draws a batch; an encoder's padding is theirs, and is never a word."""
    batch = tiny.batch(self.ours.model, **sizes)
    ids, pad = batch.get("encoder_input_tokens"), self.hf.config.pad_token_id
    if ids is not None and pad:
      zeros, pads = ids == 0, ids == pad
      batch["encoder_input_tokens"] = np.where(
        zeros, pad, np.where(pads, 0, ids)
      )
    return batch

  def long_batch(self, seed=0) -> dict[str, np.ndarray]:
    """Draws a batch in which rows differ in length, some long."""
    return self.batch(
      inputs=(29, 1, 17), targets=(3, 31, 11), input_length=30,
      target_length=32, seed=seed,
    )  # fmt: skip

  def their_logits(self, batch, hf=None):
    """Runs theirs on our batch; a torch tensor [B, T, V]."""
    import torch

    def side(name):
      ids = torch.tensor(batch[f"{name}_input_tokens"]).long()
      return ids, torch.tensor(batch[f"{name}_segment_ids"])

    inputs = {}
    row_format = self.ours.model.row_format
    first = row_format.sides[0]
    inputs["input_ids"], inputs["attention_mask"] = side(first)
    if len(row_format.sides) == 2:
      ids, mask = side("decoder")
      inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    if "encoder_token_types" in batch:
      types = torch.tensor(batch["encoder_token_types"]).long()
      inputs["token_type_ids"] = types
    outputs = (hf or self.hf)(**inputs)
    return outputs[0]  # The words'; a classifier's come after them.


def read(model_type: str, options: dict[str, Any], names=None, **more):
  """Reads a config.json alone, of which all must be known."""
  options = {"model_type": model_type, **options, **more}
  config = Config(options, "config.json", names)
  config.text("model_type")
  transformer = families.by_model_type()[model_type].read(config)
  config.finish()
  return transformer


def refused(model_type: str, options: dict[str, Any], names=None, **more):
  """Sees to it that an option is refused by its name."""
  (name,) = more
  with pytest.raises(ValueError, match=rf"\b{name}\b"):
    read(model_type, options, names, **more)


class Logits:
  """The checks of logits, and of what is written and read.

  A subclass is one family with one set of options.

  Attributes:
    architecture: the class in `transformers`.
    options: of its config.
  """

  architecture: str
  options: dict[str, Any]

  @classmethod
  def prepare(cls, hf):
    """Changes the random model before it is saved, where a family must."""

  @pytest.fixture(scope="class")
  @classmethod
  def pair(cls, tmp_path_factory) -> Pair:
    """Saves a random model of theirs, and loads it as ours."""
    import torch
    import transformers

    torch.set_num_threads(1)  # Threads of both libraries would fight.
    torch.manual_seed(0)
    kind = getattr(transformers, cls.architecture)
    config = kind.config_class(**cls.options, attn_implementation="eager")
    hf = kind(config).eval()
    cls.prepare(hf)
    with torch.no_grad():
      for p in hf.parameters():  # Norm scales too leave their initial ones.
        p.add_(0.3 * torch.randn_like(p))
    directory = tmp_path_factory.mktemp("hf")
    hf.save_pretrained(directory)
    return Pair(hf, load_hf(directory), directory)

  def test_logits_agree_with_padding(self, pair, record_property):
    import torch

    for seed in range(2):
      batch = pair.long_batch(seed)
      with torch.no_grad():
        theirs = pair.their_logits(batch).numpy()
      ours = pair.ours.logits(batch)
      real = batch[f"{tiny.side(pair.ours.model)}_segment_ids"] > 0
      np.testing.assert_allclose(ours[real], theirs[real], atol=LOGITS, rtol=0)
      largest = np.abs(ours[real] - theirs[real]).max()
      self._record(record_property, pair, "logits", largest)

  def _record(self, record_property, pair, name, value):
    """Records what conftest.py makes a table of."""
    record_property("family", pair.ours.model_type)
    record_property("class", self.architecture)
    record_property(name, float(value))

  def test_export_and_import_keep_the_bits(self, pair, tmp_path):
    scanned = load_hf(pair.directory, scan=True)
    save_hf(
      scanned.model, scanned.params, tmp_path, shard_bytes=9_000,
      family=scanned.model_type,
    )  # fmt: skip
    again = load_hf(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, pair.ours.params)
    assert again.model == pair.ours.model

  def test_transformers_loads_our_export_and_agrees(self, pair, tmp_path):
    import torch

    model_type = pair.ours.model_type
    save_hf(pair.ours.model, pair.ours.params, tmp_path, family=model_type)
    theirs, info = type(pair.hf).from_pretrained(
      tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    batch = pair.long_batch()
    with torch.no_grad():
      np.testing.assert_allclose(
        pair.their_logits(batch, theirs.eval()), pair.their_logits(batch),
        atol=1e-5, rtol=0,
      )  # fmt: skip


class WithoutPrefix:
  """Names without the model's prefix, as the oldest files have, are read."""

  def test_files_without_prefix_are_read(self, pair, tmp_path):
    pair.hf.base_model.save_pretrained(tmp_path)
    params = load_hf(tmp_path).params
    jax.tree.map(np.testing.assert_array_equal, params, pair.ours.params)


class Parity(Logits):
  """All checks."""

  def test_packed_rows_compute_what_unpacked_ones_do(self, pair):
    batch = pair.long_batch()
    real = batch[f"{tiny.side(pair.ours.model)}_segment_ids"] > 0
    apart = np.asarray(pair.ours.logits(batch))[real]
    logits = tiny.jit(pair.ours.model.logits)
    together = logits(pair.ours.params, tiny.packed(batch))[0, : len(apart)]
    atol = LOGITS / 3 * np.abs(apart).max()
    np.testing.assert_allclose(together, apart, atol=atol, rtol=0)

  def test_loss_and_gradients_agree(self, pair, tmp_path, record_property):
    import torch

    model = pair.ours.model
    batch = pair.batch()
    side = tiny.side(model)
    bears_loss = torch.tensor(batch[f"{side}_loss_weights"]) > 0
    targets = torch.tensor(batch[f"{side}_target_tokens"]).long()
    pair.hf.zero_grad()
    their_loss = torch.nn.functional.cross_entropy(
      pair.their_logits(batch)[bears_loss], targets[bears_loss]
    )
    their_loss.backward()

    def mean_loss(params):
      return model.objective(params, batch)

    our_loss, ours = tiny.jit(jax.value_and_grad(mean_loss))(pair.ours.params)
    np.testing.assert_allclose(our_loss, their_loss.item(), rtol=1e-5)
    # Saved like weights, their gradients come under our names.
    _save_gradients(pair.hf, tmp_path)
    theirs = load_hf(tmp_path).params
    largest = tiny.assert_trees_close(ours, theirs, rtol=GRADIENTS)
    self._record(record_property, pair, "gradients", largest)

  def test_cached_steps_give_their_logits(self, pair):
    import torch

    model, params = pair.ours.model, pair.ours.params
    if model.transformer.decoder is None:
      return  # An encoder does not generate.
    batch = pair.batch(inputs=(7, 2, 5))
    decode_step = tiny.jit(model.decode_step)
    logits, state = tiny.jit(
      lambda p, b: model.prefill(p, b, max_new_tokens=6)
    )(params, batch)
    steps = [np.asarray(logits)]
    for _ in range(5):
      greedy = np.argmax(steps[-1], axis=-1).astype(np.int32)
      logits, state = decode_step(params, state, greedy)
      steps.append(np.asarray(logits))
    new = np.argmax(steps, axis=-1).T[:, :-1]
    for row, tokens in enumerate(new):
      whole, start = _continued(model, batch, row, tokens)
      with torch.no_grad():
        theirs = pair.their_logits(whole)[0, start:].numpy()
      ours = np.stack(steps)[:, row]
      np.testing.assert_allclose(ours, theirs, atol=LOGITS, rtol=0)


def _save_gradients(hf, directory):
  import torch

  values = {name: p.detach().clone() for name, p in hf.named_parameters()}
  with torch.no_grad():
    for p in hf.parameters():
      p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
    hf.save_pretrained(directory)
    for name, p in hf.named_parameters():
      p.copy_(values[name])


def _continued(model, batch, row, tokens):
  """Returns one row with new tokens after its prompt, unpadded, and where the
  prompt ends."""
  one = {name: values[row : row + 1] for name, values in batch.items()}
  if model.row_format.name == "encoder_decoder":
    prompt = np.zeros((1, 1), np.int32)
  else:
    length = int(one["decoder_causal_attention"].sum())
    prompt = one["decoder_input_tokens"][:, :length]
  whole = np.concatenate([prompt, tokens[None]], axis=1)
  one["decoder_input_tokens"] = whole
  one["decoder_segment_ids"] = np.ones_like(whole)
  return one, prompt.shape[1] - 1
