"""A converted run begins and ends texts as `transformers` does."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import t5x_lite
from launch import config, main
from t5x_lite import interop
from t5x_lite.data import vocabulary_record
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.training.run import Run
from tests import tiny

WORDS = [f"w{i}" for i in range(30)]
SPECIAL = ["<pad>", "<s>", "</s>", "<x>", "<y>", "<unk>"]
PIECES = {piece: i for i, piece in enumerate([*SPECIAL, *WORDS])}
PROMPT, TARGETS = "w3 w14 w15 w9", "w2 w6 w5"


@dataclasses.dataclass(frozen=True)
class Kind:
  """A family, and what lies beside its weights.

  Attributes:
    architecture: the class in `transformers`.
    options: of its config.
    template: what its tokenizer.json puts around a text; None for bytes.
    generation: generation_config.json.
    start_id: what comes before the first token of a decoder's text.
  """

  architecture: str
  options: dict
  template: str | None
  generation: dict
  start_id: int | None = None


_DECODER = {
  "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
  "vocab_size": len(PIECES), "max_position_embeddings": 64,
}  # fmt: skip
KINDS = {
  "t5": Kind(
    "T5ForConditionalGeneration",
    {
      "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
      "vocab_size": 384, "decoder_start_token_id": 0,
    },
    None,
    {"decoder_start_token_id": 5, "min_new_tokens": 3, "max_new_tokens": 9},
    start_id=5,
  ),
  "llama": Kind(
    "LlamaForCausalLM",
    {**_DECODER, "intermediate_size": 48},
    "<x> $A",
    {"bos_token_id": 3, "max_length": 12, "bad_words_ids": [[7], [9]]},
  ),
  "gpt_neox": Kind(
    "GPTNeoXForCausalLM",
    {**_DECODER, "intermediate_size": 48},
    "$A",
    {"min_length": 9, "max_new_tokens": 8, "forced_eos_token_id": 4},
  ),
  "opt": Kind(
    "OPTForCausalLM",
    {**_DECODER, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "</s> <y> $A",  # As GLM-4 has two tokens there.
    {"bos_token_id": 2, "max_new_tokens": 7, "begin_suppress_tokens": [20]},
  ),
  "bart": Kind(
    "BartForConditionalGeneration",
    {
      "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
      "encoder_attention_heads": 4, "decoder_attention_heads": 4,
      "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
      "max_position_embeddings": 64, "vocab_size": len(PIECES),
      "decoder_start_token_id": 2,
    },
    "<s> $A </s>",
    {
      "decoder_start_token_id": 4, "forced_bos_token_id": 3,
      "forced_eos_token_id": 2, "max_length": 10, "begin_suppress_tokens": [8],
    },
    start_id=4,
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Theirs:
  """A random model of theirs, saved, with its tokenizer."""

  kind: Kind
  model: object
  directory: object

  def ids(self, text, *, around=True):
    """Encodes as their tokenizer does."""
    if self.kind.template is None:
      return [b + 3 for b in text.encode()] + [1] * around
    before, after = self.kind.template.split("$A") if around else ("", "")
    words = [*before.split(), *text.split(), *after.split()]
    return [PIECES[word] for word in words]

  def generate(self):
    import torch

    ids = torch.tensor([self.ids(PROMPT)])
    whole = self.model.generate(ids, pad_token_id=0)[0].tolist()
    return whole[1 if self.kind.start_id is not None else ids.shape[1] :]

  def log_probs(self, given, decoded):
    """Returns log p of each token of `decoded` but the first."""
    import torch

    inputs = {"input_ids": torch.tensor([decoded])}
    if given is not None:
      inputs = {
        "input_ids": torch.tensor([given]),
        "decoder_input_ids": torch.tensor([decoded]),
      }
    with torch.no_grad():
      log_probs = self.model(**inputs).logits[0].log_softmax(-1)
    rows = range(len(decoded) - 1)
    return [log_probs[i, decoded[i + 1]].item() for i in rows]


@pytest.fixture(scope="module", params=KINDS)
def theirs(request, tmp_path_factory):
  import torch
  import transformers

  kind = KINDS[request.param]
  torch.manual_seed(3)
  torch.set_num_threads(1)
  of = getattr(transformers, kind.architecture)
  model = of(of.config_class(**kind.options)).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.add_(0.3 * torch.randn_like(p))
  directory = tmp_path_factory.mktemp("hf")
  model.generation_config = transformers.GenerationConfig(**kind.generation)
  theirs = Theirs(kind, model, directory)
  # The text ends at a word, one of two ends; without any it would go on.
  ends = [2, theirs.generate()[5]]
  model.generation_config.eos_token_id = ends
  model.save_pretrained(directory)
  tokenizer_config = {"tokenizer_class": "ByT5Tokenizer"}
  if kind.template is not None:
    _tokenizer(kind.template).save(str(directory / "tokenizer.json"))
    tokenizer_config = {"eos_token": {"content": "</s>"}, "bos_token": "<s>"}
  (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
  return theirs


def _tokenizer(template):
  import tokenizers

  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(PIECES, unk_token="<unk>")
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(SPECIAL)
  if template != "$A":
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single=template,
      special_tokens=[(s, PIECES[s]) for s in SPECIAL if s in template],
    )
  return tokenizer


def convert(source, to, target, *flags):
  return main.main(
    ["convert", f"--input={source}", f"--to={to}", f"--output={target}", *flags]
  )


@pytest.fixture(scope="module")
def run(theirs):
  run = theirs.directory / "run"
  assert convert(theirs.directory, "run", run) == 0
  return run


@pytest.fixture(scope="module", params=["run", "hf"])
def place(request, theirs, run):
  """Returns a directory to use: that of the run, or theirs as it is."""
  return run if request.param == "run" else theirs.directory


def _command(capsys, *argv):
  capsys.readouterr()
  assert main.main([*argv, "--json"]) == 0
  return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_text_goes_on_and_ends_as_theirs_does(theirs, place, capsys):
  ours = _command(capsys, "infer", f"--model_dir={place}", f"--text={PROMPT}")
  new = theirs.generate()
  assert ours["num_tokens"] == len(new)
  given = None
  before = theirs.ids(PROMPT)
  if theirs.kind.start_id is not None:
    given, before = before, [theirs.kind.start_id]
  expected = theirs.log_probs(given, [*before, *new])[len(before) - 1 :]
  assert ours["log_likelihood"] == pytest.approx(sum(expected), abs=1e-3)
  if theirs.kind.template is not None:
    words = dict(enumerate(PIECES))
    ends = theirs.model.generation_config.eos_token_id
    text = [words[i] for i in (new[:-1] if new[-1] in ends else new)]
    text = [word for word in text if word not in SPECIAL]
    assert ours["prediction"].split() == text


def test_a_chats_prompt_begins_as_its_rows_do_once(theirs, place):
  before = (theirs.kind.template or "$A").partition("$A")[0].replace(" ", "")
  template = place / "chat_template.jinja"
  template.write_text(f"{before or '<s>'}{{{{ messages[0].content }}}}")
  model = t5x_lite.load(place)
  prompt = model.chat_prompt([{"role": "user", "content": "w1"}])
  template.unlink()
  assert prompt == ("w1" if before else "<s>w1")


def test_targets_are_scored_as_theirs_are(theirs, place, capsys):
  score = ["score", f"--model_dir={place}", f"--inputs={PROMPT}"]
  ours = _command(capsys, *score, f"--targets={TARGETS}")
  if theirs.kind.start_id is None:
    prompt = theirs.ids(PROMPT)
    whole = [*prompt, *theirs.ids(TARGETS, around=False), PIECES["</s>"]]
    expected = theirs.log_probs(None, whole)[len(prompt) - 1 :]
  else:
    decoded = [theirs.kind.start_id, *theirs.ids(TARGETS)]
    expected = theirs.log_probs(theirs.ids(PROMPT), decoded)
  assert ours["num_tokens"] == len(expected)
  assert ours["log_likelihood"] == pytest.approx(sum(expected), abs=1e-3)


def test_embeddings_are_the_means_of_their_last_states(theirs):
  import torch

  ids = torch.tensor([theirs.ids(PROMPT)])
  is_pair = theirs.kind.start_id is not None
  model = theirs.model.get_encoder() if is_pair else theirs.model.base_model
  with torch.no_grad():
    states = model(input_ids=ids).last_hidden_state[0].numpy()
  ours = t5x_lite.load(theirs.directory).embed([PROMPT])
  np.testing.assert_allclose(ours[0], states.mean(0), atol=2e-4, rtol=1e-3)


def test_the_way_back_says_the_same(theirs, run, tmp_path):
  import transformers

  assert convert(run, "hf", tmp_path / "hf") == 0
  there, here = (
    transformers.GenerationConfig.from_pretrained(directory)
    for directory in (theirs.directory, tmp_path / "hf")
  )
  for name in ("decoder_start_token_id", "eos_token_id", "forced_bos_token_id",
               "forced_eos_token_id", "max_length", "max_new_tokens",
               "begin_suppress_tokens"):  # fmt: skip
    assert getattr(here, name) == getattr(there, name), name
  if theirs.kind.start_id is not None:
    again = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert again["decoder_start_token_id"] == theirs.kind.start_id


def test_training_on_a_run_begins_texts_alike(theirs, run):
  config.load([run / "config.gin"], ["data.Data.batch_size = 2"])
  spec = dataclasses.replace(config.build(Run).train, pack=True)
  vocabulary_record.check(resolve(spec.task), run)
  row_format = config.build(Run).model.row_format
  batch = next(iter(Reader(spec, row_format).batches()))
  is_first = batch["decoder_positions"] == 0
  is_first &= batch["decoder_segment_ids"] > 0
  firsts = batch["decoder_input_tokens"][is_first]
  starts = {
    "t5": 5, "bart": 4, "llama": 3, "opt": 2, "gpt_neox": 1,
  }  # fmt: skip
  name = theirs.model.config.model_type
  assert set(firsts.tolist()) == {starts[name]}
  if name == "opt":
    is_second = np.roll(is_first, 1, axis=1)
    assert set(batch["decoder_input_tokens"][is_second].tolist()) == {4}
    assert not batch["decoder_loss_weights"][is_first].any()
  if name == "bart":
    is_first = batch["encoder_positions"] == 0
    is_first &= batch["encoder_segment_ids"] > 0
    assert set(batch["encoder_input_tokens"][is_first].tolist()) == {1}


# One kind says it of all.
@pytest.mark.parametrize("theirs", ["t5"], indirect=True)
@pytest.mark.usefixtures("no_new_tasks")
def test_fine_tuning_begins_where_the_run_does(theirs, run, tmp_path):
  from t5x_lite.decoding import Constraints

  (tmp_path / "squad_v1").mkdir()
  for split in ("train", "validation"):
    (tmp_path / "squad_v1" / f"{split}.jsonl").write_text("{}\n")
  bindings = ["SUITE = 'squad'", f"FROM = '{run}'", f"FILES = '{tmp_path}'"]
  config.load(
    [run / "config.gin", "runs/finetune.gin"],
    [*bindings, "VOCABULARY = @converted.Bytes()"],
  )
  tuned = config.build(Run)
  task = resolve(tuned.train.task)
  assert task.starts["start_id"] == 5
  assert tuned.constraints == Constraints(
    ends=theirs.model.generation_config.eos_token_id, min_new_tokens=3,
    max_new_tokens=9,
  )  # fmt: skip
  vocabulary_record.check(task, run)


def small_t5(directory, **settings):
  model = tiny.with_vocab(tiny.t5(), 384)
  interop.save_hf(model, tiny.random_params(model), directory)
  settings = {"tokenizer_class": "ByT5Tokenizer", **settings}
  (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def _alone(*commands):
  """Runs commands in a process of their own; returns what it says."""
  code = (
    "import sys; from launch import main\n"
    f"for words in {list(commands)!r}:\n"
    "  assert main.main(words) == 0\n"
    "print('tensorflow' in sys.modules)"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  return done.stdout.strip(), done.stderr


def _words(source, to, target):
  return ["convert", f"--input={source}", f"--to={to}", f"--output={target}"]


def test_tensorflow_is_loaded_for_text_alone_and_is_not_heard(tmp_path):
  with_text, bare = tmp_path / "hf", tmp_path / "bare"
  small_t5(with_text)
  small_t5(bare)
  (bare / "tokenizer_config.json").unlink()
  loaded, said = _alone(
    _words(bare, "run", tmp_path / "bare_run"),
    _words(tmp_path / "bare_run", "hf", tmp_path / "bare_back"),
    _words(with_text, "hf", tmp_path / "copy"),
  )
  assert loaded == "False"
  assert all(line.startswith("t5x_lite: ") for line in said.splitlines())
  loaded, said = _alone(_words(with_text, "run", tmp_path / "run"))
  assert loaded == "True"
  # A slow machine says meanwhile what takes long.
  lines = [line for line in said.splitlines() if "s so far)" not in line]
  assert lines == [f"t5x_lite: wrote {tmp_path}/run"]
