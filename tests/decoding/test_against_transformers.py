"""Strategies give `transformers`' tokens, on random float32 weights."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from t5x_lite.decoding import (
  GREEDY,
  UNCONSTRAINED,
  Beam,
  Constraints,
  Contrastive,
  Phrases,
  Repetition,
  generate,
  stops,
)
from t5x_lite.interop import load_hf
from tests import tiny
from tests.interop import parity, test_bart, test_gpt_neox, test_t5

NUM_PROMPTS, NEW, PROMPT_LENGTHS = 200, 8, (3, 5, 6)
PAD = 2
FAMILIES = {
  "t5": ("T5ForConditionalGeneration", {**test_t5.SIZES, "pad_token_id": PAD}),
  "llama": ("LlamaForCausalLM", parity.LLAMA_SIZES),
  "bart": (
    "BartForConditionalGeneration",
    {**test_bart.OPTIONS, "decoder_start_token_id": 0, "pad_token_id": PAD},
  ),
  "gpt_neox": ("GPTNeoXForCausalLM", test_gpt_neox.TestParallel.options),
}


@dataclasses.dataclass(repr=False)
class Case:
  """A model twice, and prompts, drawn once for all strategies.

  ends: ids so frequent that texts of all lengths end.
  """

  hf: Any
  model: Any
  params: Any
  prompts: list[np.ndarray]
  ends: tuple[int, ...] = ()

  @property
  def reads_encoder(self):
    return self.model.row_format.name == "encoder_decoder"

  def ours(self, sampler, constraints, new=NEW, **options):
    """Returns what ours generates for all prompts, in one ragged batch."""
    side = "encoder" if self.reads_encoder else "decoder"
    length = max(map(len, self.prompts))
    ids = np.array([np.pad(p, (0, length - len(p))) for p in self.prompts])
    inside = np.array([np.arange(length) < len(p) for p in self.prompts])
    batch = {
      f"{side}_input_tokens": ids.astype(np.int32),
      f"{side}_segment_ids": inside.astype(np.int32),
      f"{side}_positions": (np.arange(length) * inside).astype(np.int32),
    }
    if not self.reads_encoder:
      batch["decoder_causal_attention"] = inside.astype(np.int32)
    return generate(
      self.model, self.params, batch, max_new_tokens=new, sampler=sampler,
      constraints=constraints, **options,
    )  # fmt: skip

  def their_states(self, prompt, texts):
    """Returns log probabilities [N, T, V] and last states [N, T, D], uncached.

    Args:
      prompt: of all texts.
      texts: N sequences of equal length, start token or prompt included.
    """
    import torch

    texts = torch.tensor(np.array(texts)).long()
    inputs = {"input_ids": texts}
    if self.reads_encoder:
      ids = torch.tensor(np.array([prompt] * len(texts))).long()
      inputs = {"input_ids": ids, "decoder_input_ids": texts}
    with torch.no_grad():
      out = self.hf(**inputs, output_hidden_states=True, use_cache=False)
    side = "decoder_hidden_states" if self.reads_encoder else "hidden_states"
    log_probs = out.logits.log_softmax(-1).numpy()
    return log_probs, getattr(out, side)[-1].numpy()

  def theirs(self, new=NEW, **options):
    """Returns [tokens of the best, ...] and scores for each prompt.

    Prompts of one length go together, so that none is padded.
    """
    import torch

    found = {}
    for length in sorted({len(p) for p in self.prompts}):
      rows = [i for i, p in enumerate(self.prompts) if len(p) == length]
      ids = torch.tensor(np.array([self.prompts[i] for i in rows])).long()
      with torch.no_grad():
        out = self.hf.generate(
          ids, attention_mask=torch.ones_like(ids), max_new_tokens=new,
          eos_token_id=list(self.ends), pad_token_id=PAD,
          return_dict_in_generate=True, output_scores=True, **options,
        )  # fmt: skip
      start = 1 if self.reads_encoder else length
      several = options.get("num_return_sequences", 1)
      tokens = out.sequences[:, start:].numpy().reshape(len(rows), several, -1)
      scores = getattr(out, "sequences_scores", None)
      scores = None if scores is None else scores.numpy().reshape(len(rows), -1)
      for place, row in enumerate(rows):
        found[row] = tokens[place], scores is not None and scores[place]
    return [found[row] for row in range(len(self.prompts))]


# Variants of a strategy, of one family with an encoder and one without.
VARIANTS = pytest.mark.parametrize("case", ["llama", "t5"], indirect=True)
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("bart", "t5")]


@pytest.fixture(scope="module", params=["llama", "gpt_neox", *SLOW])
def case(request, tmp_path_factory):
  import torch
  import transformers

  torch.set_num_threads(1)
  torch.manual_seed(0)
  name, options = FAMILIES[request.param]
  kind = getattr(transformers, name)
  hf = kind(kind.config_class(**options, attn_implementation="eager")).eval()
  with torch.no_grad():
    for p in hf.parameters():
      p.add_(0.3 * torch.randn_like(p))
  # Without what a family's configuration forces by default.
  start = {"decoder_start_token_id": 0} if hf.config.is_encoder_decoder else {}
  hf.generation_config = transformers.GenerationConfig(**start)
  directory = tmp_path_factory.mktemp("hf")
  hf.save_pretrained(directory)
  found = load_hf(directory)
  rng = np.random.default_rng(0)
  lengths = rng.choice(PROMPT_LENGTHS, NUM_PROMPTS)
  prompts = [rng.integers(3, tiny.VOCAB, n) for n in lengths]
  made = Case(hf, found.model, found.params, prompts)
  made.ends = _spread(np.asarray(made.ours(GREEDY, UNCONSTRAINED).tokens))
  return made


def _spread(tokens):
  """Returns the ids whose first places in rows spread most."""
  first = {
    id_: np.unique((tokens == id_).argmax(1)[(tokens == id_).any(1)]).size
    for id_ in range(tiny.VOCAB)
    if id_ != PAD
  }
  return tuple(sorted(first, key=first.get)[-3:])


def until_end(tokens, ends):
  """Returns tokens up to the first that ends a text."""
  places = np.flatnonzero(np.isin(tokens, ends))
  return tokens[: places[0] + 1 if len(places) else None].tolist()


def same(case, sampler, constraints=UNCONSTRAINED, **options):
  """Asserts equal tokens of all prompts, and scores of beams.

  Returns:
    the lengths of the texts.
  """
  constraints = dataclasses.replace(constraints, ends=case.ends)
  ours = case.ours(sampler, constraints)
  theirs = case.theirs(**options)
  tokens, lengths = np.asarray(ours.tokens), np.asarray(ours.lengths)
  scores = np.asarray(ours.scores)
  if tokens.ndim == 2:
    tokens, lengths = tokens[:, None], lengths[:, None]
    scores = scores[:, None]
  for i, (expected, expected_scores) in enumerate(theirs):
    for n, sequence in enumerate(expected):
      found = tokens[i, n, : lengths[i, n]].tolist()
      assert found == until_end(sequence, case.ends), (i, n)
    if expected_scores is not False:
      np.testing.assert_allclose(scores[i], expected_scores, atol=2e-4)
  return lengths


@pytest.mark.slow
def test_greedy(case):
  lengths = same(case, GREEDY, do_sample=False)
  assert len(np.unique(lengths)) > 3


def test_beams(case):
  same(
    case, Beam(num_beams=3, num_return_sequences=2), num_beams=3,
    num_return_sequences=2,
  )  # fmt: skip


def test_beams_end_at_a_string_as_theirs(case):
  import torch

  beam, constraints = Beam(num_beams=2), Constraints(ends=case.ends)
  pairs = np.asarray(case.ours(beam, constraints).tokens)[:, 1:3]
  # Neither the start token, nor an end, nor what comes after it.
  inside = ~np.isin(pairs, (0, PAD, *case.ends)).any(1)
  pairs, counts = np.unique(pairs[inside], axis=0, return_counts=True)
  pair = pairs[counts.argmax()]
  # Where the string would begin in the prompt, which is not looked at.
  prompts = [p for p in case.prompts if p[-1] != pair[0]]
  case = dataclasses.replace(case, prompts=prompts)
  letters = [chr(256 + i) for i in range(tiny.VOCAB)]
  spelled = tuple(letter.encode() for letter in letters)
  stop = stops.find((letters[pair[0]] + letters[pair[1]],), spelled, spelled)
  ours = case.ours(beam, constraints, stops=stop)
  theirs = case.theirs(
    num_beams=2,
    stopping_criteria=[
      lambda ids, scores, **_: (ids[:, -2:] == torch.tensor(pair)).all(1)
    ],
  )
  stopped = 0
  for row, length, score, (expected, expected_score) in zip(
    *map(np.asarray, (ours.tokens, ours.lengths, ours.scores)), theirs,
    strict=True,
  ):  # fmt: skip
    assert row[:length].tolist() == expected[0, :length].tolist()
    np.testing.assert_allclose(score, expected_score, atol=2e-4)
    stopped += row[max(length - 2, 0) : length].tolist() == pair.tolist()
  assert stopped > 3


@pytest.mark.slow
@VARIANTS
@pytest.mark.parametrize(
  ("penalty", "early"),
  [(1.0, True), (1.0, "never"), (0.0, False), (2.5, "never")],
)
def test_lengths_and_ends_are_theirs(case, penalty, early):
  same(
    case,
    Beam(num_beams=4, length_penalty=penalty, early_stopping=early),
    num_beams=4, length_penalty=penalty, early_stopping=early,
  )  # fmt: skip


REPEATS = [
  ({"penalty": 1.7}, {"repetition_penalty": 1.7}),
  (
    {"penalty": 0.6, "no_repeat_ngram_size": 3},
    {"repetition_penalty": 0.6, "no_repeat_ngram_size": 3},
  ),
]


@pytest.mark.slow
@VARIANTS
@pytest.mark.parametrize(("ours", "theirs"), REPEATS)
def test_repeated_tokens_are_treated_as_theirs(case, ours, theirs):
  constraints = Constraints(repetition=Repetition(**ours))
  same(case, GREEDY, constraints, do_sample=False, **theirs)


def test_beams_repeat_as_theirs(case):
  repetition = Repetition(penalty=1.3, no_repeat_ngram_size=2)
  same(
    case, Beam(num_beams=2), Constraints(repetition=repetition), num_beams=2,
    repetition_penalty=1.3, no_repeat_ngram_size=2,
  )  # fmt: skip


@pytest.mark.slow
def test_bad_words_never_come(case):
  # Pairs and triples that come: else nothing would have to be banned.
  tokens = np.asarray(case.ours(GREEDY, UNCONSTRAINED).tokens)
  banned = {
    tuple(row[i : i + 2].tolist()) for row in tokens[:40] for i in (0, 3)
  }
  banned |= {tuple(row[2:5].tolist()) for row in tokens[40:80]}
  banned |= {(int(tokens[90, 1]),)} - {(end,) for end in case.ends}
  same(
    case, Beam(num_beams=2), Constraints(phrases=Phrases(banned=list(banned))),
    num_beams=2, bad_words_ids=[list(phrase) for phrase in banned],
  )  # fmt: skip


@pytest.mark.slow
def test_beams_keep_to_forced_tokens_and_lengths(case):
  first = {"first": 5} if case.reads_encoder else {}
  theirs = {"forced_bos_token_id": 5} if case.reads_encoder else {}
  constraints = Constraints(
    min_new_tokens=3, suppressed=(4, 6), last=case.ends[0], **first
  )
  same(
    case, Beam(num_beams=3), constraints, num_beams=3, min_new_tokens=3,
    suppress_tokens=[4, 6], forced_eos_token_id=case.ends[0], **theirs,
  )  # fmt: skip


@pytest.mark.slow
def test_contrastive_search_is_equation_5(case):
  """Su et al. 2022, arXiv:2202.06417, with `transformers`' states."""
  alpha, k, new, num_prompts = 0.6, 3, 4, 6
  case = dataclasses.replace(case, prompts=case.prompts[:num_prompts])
  sampler = Contrastive(penalty_alpha=alpha, top_k=k)
  ours = case.ours(sampler, UNCONSTRAINED, new=new)
  greedy = case.ours(GREEDY, UNCONSTRAINED, new=new)
  if not case.reads_encoder:  # All of random BART's states are much alike.
    assert (ours.tokens != greedy.tokens).any()
  for i, prompt in enumerate(case.prompts):
    text = [0] if case.reads_encoder else prompt.tolist()
    start = len(text)
    while len(text) - start < new:
      probs = np.exp(case.their_states(prompt, [text])[0][0, -1])
      top = np.argsort(-probs)[:k]
      _, states = case.their_states(prompt, [[*text, v] for v in top])
      states /= np.linalg.norm(states, axis=-1, keepdims=True)
      nearest = [max(h[:-1] @ h[-1]) for h in states]
      scores = (1 - alpha) * probs[top] - alpha * np.array(nearest)
      text.append(int(top[scores.argmax()]))
    assert ours.tokens[i].tolist() == text[start:], i
