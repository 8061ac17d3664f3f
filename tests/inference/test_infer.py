"""Texts come back in order, complete, and the same however they are run."""

import dataclasses
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from t5x_lite import row_formats
from t5x_lite.decoding import Greedy, Sample, loop
from t5x_lite.devices.layout import Layout
from t5x_lite.files.text_files import Record
from t5x_lite.inference import infer
from tests import processes
from tests.decoding.markov import Markov

BYTES = seqio.ByteVocabulary(extra_ids=5)  # 0 pad, 1 EOS, 2 unk, 3 + byte
V = BYTES.vocab_size


def alphabet(eos_after="e"):
  """After each letter comes the next, until EOS."""
  logits = np.full((V, V), -30.0)
  logits[:, BYTES.eos_id] = -20
  for a, b in zip("abcdefgh", "bcdefghi", strict=True):
    logits[BYTES.encode(a), BYTES.encode(b)] = 0
  if eos_after:
    logits[BYTES.encode(eos_after)] = -30
    logits[BYTES.encode(eos_after), BYTES.eos_id] = 0
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return {"log_probs": jnp.asarray(log_probs, jnp.float32)}


def noise(seed=0):
  logits = np.random.default_rng(seed).normal(size=(V, V))
  logits[:, BYTES.eos_id] = 3
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return {"log_probs": jnp.asarray(log_probs, jnp.float32)}


def codec(architecture="causal", *, inputs_eos=False, **lengths):
  return infer.Codec(
    row_format=row_formats.ALL[architecture],
    inputs=seqio.Feature(BYTES, add_eos=inputs_eos),
    targets=seqio.Feature(BYTES, add_eos=True),
    lengths=lengths or {"inputs": 32, "targets": 8},
    delimiter="",  # So that a prediction scores as it was generated.
  )


def generation(architecture="causal", *, model=None, **settings):
  model = model or Markov(architecture=architecture)
  return infer.Generate(model=model, codec=codec(architecture), **settings)


def write(path, *records):
  path.write_text("".join(json.dumps(r) + "\n" for r in records))
  return path


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
  "architecture", ["causal", "prefix", "encoder_decoder"]
)
def test_generates_up_to_eos_and_keeps_order_and_fields(architecture):
  results = infer.run(
    generation(architecture),
    alphabet(),
    [{"inputs": "b", "id": 7}, {"text": "xyza"}, {"inputs": "d"}],
    batch_size=2,
  )
  assert [r.pop("log_likelihood") > -1e-3 for r in results] == [True] * 3
  assert results == [
    {"inputs": "b", "id": 7, "prediction": "cde", "num_tokens": 4},
    {"text": "xyza", "prediction": "bcde", "num_tokens": 5},
    {"inputs": "d", "prediction": "e", "num_tokens": 2},
  ]


def test_a_prompt_ends_with_eos_only_where_training_has_it():
  model = Markov()
  with_eos = dataclasses.replace(
    generation(model=model, max_new_tokens=1),
    codec=codec(inputs_eos=True),
  )
  params = alphabet()
  params["log_probs"] = params["log_probs"].at[1, BYTES.encode("z")].set(5.0)
  assert infer.run(with_eos, params, [{"text": "a"}])[0]["prediction"] == "z"
  plain = generation(model=model, max_new_tokens=1)
  assert infer.run(plain, params, [{"text": "a"}])[0]["prediction"] == "b"


def widened(params, more=7):
  """Rounds a chain's vocabulary up by ids that are likelier than all others."""
  log_probs = params["log_probs"]
  ends = jnp.full((V, more), jnp.max(log_probs) + 9)
  wide = jnp.pad(jnp.concatenate([log_probs, ends], 1), ((0, more), (0, 0)))
  return {"log_probs": jax.nn.log_softmax(wide)}


@pytest.mark.parametrize("sampler", [Greedy(), Sample(), Sample(top_k=3)])
def test_ids_that_round_the_vocabulary_up_are_not_generated(sampler):
  job = generation(sampler=sampler, max_new_tokens=4)
  texts = [{"inputs": letter} for letter in "abcd"]
  plain, wide = (
    infer.run(job, params, texts)
    for params in (alphabet(), widened(alphabet()))
  )
  said = [[r["prediction"] for r in results] for results in (plain, wide)]
  assert said[0] == said[1] == ["bcde", "cde", "de", "e"]
  # Though the model holds them for very likely.
  assert all(r["log_likelihood"] < -9 for r in wide)


def test_an_encoder_needs_a_token_to_read():
  job = generation("encoder_decoder")
  with pytest.raises(ValueError, match="text 2: the prompt is empty, and an e"):
    infer.run(job, alphabet(), [{"text": "a"}, {"text": ""}])
  with_eos = dataclasses.replace(
    job,
    codec=dataclasses.replace(
      job.codec, inputs=seqio.Feature(BYTES, add_eos=True)
    ),
  )
  assert infer.run(with_eos, alphabet(), [{"text": ""}])


def test_blanks_come_back_filled_in():
  params = alphabet()
  sentinel = V - 1
  steps = [BYTES.encode("!")[0], sentinel, *BYTES.encode("yes"), BYTES.eos_id]
  for a, b in zip(steps, steps[1:], strict=False):
    params["log_probs"] = params["log_probs"].at[a, b].set(5.0)
  (result,) = infer.run(
    generation("encoder_decoder"), params, [{"inputs": "oh <extra_id_0>!"}]
  )
  assert result["prediction"] == "<extra_id_0>yes"
  assert result["filled"] == "oh yes!"


def test_draws_do_not_depend_on_batches():
  texts = [{"text": t} for t in ["a", "bcd" * 8, "", "e", "ff"]]
  job = generation(sampler=Sample(), max_new_tokens=6, seed=5)
  together = infer.run(job, noise(), texts, batch_size=8)
  apart = infer.run(job, noise(), texts, batch_size=2)
  assert together == apart
  other = infer.run(dataclasses.replace(job, seed=6), noise(), texts)
  assert [r["prediction"] for r in other] != [r["prediction"] for r in together]


def test_eight_devices_give_what_one_gives():
  texts = [{"text": t} for t in "abcdefghijk"]
  job = generation(sampler=Sample(), max_new_tokens=6)
  layout = Layout(mesh={"data": -1, "tensor": 2})
  spread = jax.device_put(noise(), layout.replicated())
  assert infer.run(
    job, spread, texts, batch_size=3, layout=layout
  ) == infer.run(job, noise(), texts)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path):
  path_in = write(tmp_path / "in.jsonl", *[{"text": c} for c in "abcdefg"])
  job = generation(sampler=Sample(), max_new_tokens=5)
  alone = tmp_path / "alone.jsonl"
  infer.run_file(job, noise(), path_in, alone)

  together = tmp_path / "together.jsonl"
  together.write_bytes(alone.read_bytes()[:100])  # a line and a half
  shutil.copy(f"{alone}.job.json", f"{together}.job.json")
  with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
  code = """
import sys
import jax
address, index, path_in, path_out = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, 2, int(index))
from t5x_lite.inference import infer
from t5x_lite.decoding import Sample
from t5x_lite.devices.layout import Layout
from tests.inference import test_infer
job = test_infer.generation(sampler=Sample(), max_new_tokens=5)
layout = Layout()
params = jax.device_put(test_infer.noise(), layout.replicated())
infer.run_file(job, params, path_in, path_out, batch_size=3, layout=layout)
"""
  environment = processes.environment(
    PYTHONPATH=os.pathsep.join(p for p in sys.path if p), JAX_PLATFORMS="cpu"
  )
  both = [
    subprocess.Popen(
      [sys.executable, "-c", code]
      + [f"localhost:{port}", str(index), str(path_in), str(together)],
      env=environment,
      cwd=pathlib.Path(__file__).parents[2],
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  errors = [process.communicate(timeout=600)[1] for process in both]
  assert [p.returncode for p in both] == [0, 0], "\n".join(errors)
  assert "resuming after 1 of 7 texts" in errors[0]
  assert together.read_bytes() == alone.read_bytes()


def test_prompts_of_many_lengths_compile_few_times():
  loop._generate.clear_cache()
  texts = [{"text": "a" * n} for n in range(1, 33)]
  infer.run(generation(max_new_tokens=2), alphabet(), texts, batch_size=4)
  assert loop._generate._cache_size() == 3  # 16, 32 and all 32 + start token


def test_a_language_models_prompt_and_prediction_share_its_length():
  job = infer.Generate(model=Markov(), codec=codec(targets=12))
  assert job.max_new_tokens == 6
  job = dataclasses.replace(job, max_new_tokens=4)
  assert infer.run(job, alphabet(), [{"text": "x" * 7 + "b"}])[0]["num_tokens"]
  with pytest.raises(ValueError, match="inputs has 9 tokens, .*maximum of 8"):
    infer.run(job, alphabet(), [{"text": "x" * 9}])
  with pytest.raises(
    ValueError, match="no room for a prompt in a length of 12"
  ):
    dataclasses.replace(job, max_new_tokens=12)


def test_pairs_may_share_a_row():
  job = infer.Generate(
    model=Markov(), codec=codec(inputs=10, targets=10, decoder=12)
  )
  assert job.lengths == {"inputs": 6, "targets": 6}
  assert dataclasses.replace(job, max_new_tokens=1).lengths["inputs"] == 10
  with pytest.raises(
    ValueError, match="no room for a prompt in a length of 12"
  ):
    dataclasses.replace(job, max_new_tokens=12)
  score = infer.Score(model=Markov(), codec=job.codec)
  # With the targets' EOS, 12 tokens.
  pair = {"inputs": "a" * 7, "targets": "abcd"}
  assert infer.run(score, noise(), [pair])[0]["num_tokens"] == 5
  pair["inputs"] += "a"
  with pytest.raises(ValueError, match="inputs has 8 tokens, .*maximum of 7"):
    infer.run(score, noise(), [pair])


def test_cutting_keeps_the_end_of_a_prompt_and_eos_of_inputs():
  def cut(content, *, inputs_eos=False, **lengths):
    whole = codec(inputs_eos=inputs_eos, **lengths)
    cutting = dataclasses.replace(whole, truncate=True)
    job = infer.Generate(model=Markov(), codec=cutting, max_new_tokens=1)
    return job.encode(Record("a text", {"text": content}))["inputs"].tolist()

  ends = [*BYTES.encode("ab"), BYTES.eos_id]
  assert cut("a" * 8 + "c", targets=4) == BYTES.encode("aac")
  assert cut("a" * 8 + "c", inputs=3, targets=4) == BYTES.encode("aac")
  assert cut("abcd", inputs_eos=True, inputs=3, targets=4) == ends


def test_a_files_results_are_those_of_its_texts(tmp_path):
  texts = [{"inputs": c, "n": i} for i, c in enumerate("abcdefg")]
  job = generation(sampler=Sample(), max_new_tokens=5)
  path_out = tmp_path / "out.jsonl"
  count = infer.run_file(
    job, noise(), write(tmp_path / "in.jsonl", *texts), path_out, batch_size=3
  )
  assert count == 7
  assert lines(path_out) == infer.run(job, noise(), texts)


@pytest.mark.parametrize("cut", [0, 1, 150, 333, 10**9])
def test_a_rerun_gives_the_same_file_wherever_it_was_cut(tmp_path, cut):
  path_in = write(tmp_path / "in.jsonl", *[{"text": c} for c in "abcdefg"])
  path_out = tmp_path / "out.jsonl"
  job = generation(sampler=Sample(), max_new_tokens=5)
  infer.run_file(job, noise(), path_in, path_out, batch_size=3)
  whole = path_out.read_bytes()
  path_out.write_bytes(whole[:cut])
  infer.run_file(job, noise(), path_in, path_out, batch_size=2)
  assert path_out.read_bytes() == whole


def test_an_interrupt_leaves_whole_lines_and_says_so(
  tmp_path, capsys, monkeypatch
):
  path_in = write(tmp_path / "in.jsonl", *[{"text": c} for c in "abcdefg"])
  path_out = tmp_path / "out.jsonl"
  job = generation()
  compute, calls = infer.Generate.compute, []

  def interrupted(*args):
    calls.append(1)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return compute(*args)

  monkeypatch.setattr(infer.Generate, "compute", interrupted)
  with pytest.raises(KeyboardInterrupt):
    infer.run_file(job, alphabet(), path_in, path_out, batch_size=2)
  assert [r["text"] for r in lines(path_out)] == ["a", "b"]
  assert "stopped after 2 of 7 texts" in capsys.readouterr().err
  infer.run_file(job, alphabet(), path_in, path_out, batch_size=2)
  assert [r["text"] for r in lines(path_out)] == list("abcdefg")
  said = capsys.readouterr().err
  assert "resuming after 2 of 7 texts" in said and "7/7 texts" in said


def test_another_jobs_output_is_refused(tmp_path):
  path_in = write(tmp_path / "in.jsonl", {"text": "a"}, {"text": "b"})
  path_out = tmp_path / "out.jsonl"
  job = generation(max_new_tokens=3)
  infer.run_file(job, alphabet(), path_in, path_out)
  before = path_out.read_bytes()

  def refused(match, job=job, params=None, path_in=path_in):
    with pytest.raises(ValueError, match=match):
      infer.run_file(job, params or alphabet(), path_in, path_out)

  refused(r"max_new_tokens \(was 3, is 4\)", generation(max_new_tokens=4))
  refused(r"different parameters \(was", params=alphabet(eos_after="d"))
  refused(
    r"different sampler \(was Greedy\(\), is Sample\(",
    generation(max_new_tokens=3, sampler=Sample()),
  )
  other = write(tmp_path / "other.jsonl", {"text": "a"}, {"text": "c"})
  refused(r"different input \(was", path_in=other)
  assert path_out.read_bytes() == before


@pytest.mark.parametrize(
  "line, message",
  [
    ('{"text": "a"', r"in.jsonl, line 2: bad JSON"),
    ('{"txet": "a"}', r"line 2: no field 'inputs' or 'text'; .*: 'txet'"),
    ('{"text": 3}', r"line 2: field 'text' must be a text, not 3"),
    ('{"text": "<extra_id_5>"}', r"line 2: <extra_id_5> is not in the vocab"),
    (json.dumps({"text": "a" * 40}), r"line 2: inputs has 40 tokens, .* 32"),
    (
      r'{"text": "a \ud83d"}',
      r"line 2: the text has a lone .*\\ud83d, as .* 3",
    ),
    (r'{"text": "\udc80", "n": 1}', r"line 2: the text has a lone surrogate"),
    ('{"text": "a", "b": [' * 9000, "line 2: nested more than 100 levels"),
    (f'{{"text": "a", "n": -{"7" * 5001}}}', "line 2: .* has 5001 digits"),
  ],
)
def test_a_bad_line_is_named_before_anything_is_written(
  tmp_path, line, message
):
  path_in = tmp_path / "in.jsonl"
  path_in.write_text('{"text": "a"}\n' + line + "\n")
  with pytest.raises(ValueError, match=message):
    infer.run_file(generation(), alphabet(), path_in, tmp_path / "out.jsonl")
  assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_file_without_texts_is_refused(tmp_path):
  (tmp_path / "in.txt").write_text("\n \n")
  with pytest.raises(ValueError, match="in.txt has no texts"):
    infer.run_file(
      generation(), alphabet(), tmp_path / "in.txt", tmp_path / "out.jsonl"
    )


def test_fingerprints_tell_parameters_apart_and_ignore_their_order():
  params = {"a": jnp.arange(6.0), "b": {"c": jnp.ones((2, 3), jnp.bfloat16)}}
  same = {"b": {"c": jnp.ones((2, 3), jnp.bfloat16)}, "a": jnp.arange(6.0)}
  assert infer.fingerprint(params) == infer.fingerprint(same)
  changed = {**params, "a": params["a"].at[3].add(1e-6)}
  assert infer.fingerprint(params) != infer.fingerprint(changed)
  moved = {**params, "a": params["a"][::-1]}
  assert infer.fingerprint(params) != infer.fingerprint(moved)
  renamed = {"z": params["a"], "b": params["b"]}
  assert infer.fingerprint(params) != infer.fingerprint(renamed)
