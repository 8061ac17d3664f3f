"""tokenizer.json files of all kinds give the ids that `transformers` gives."""

import json

import pytest
import tokenizers
import transformers

from t5x_lite.data import sentinels as text_lib
from t5x_lite.interop import tokenizer_files as files_lib
from tasks import vocabularies
from tasks.hf_vocabulary import HuggingFaceTokenizer
from tests.tasks import tokenizer_files

WITH_OWN = ("t5_like", "t5_like_with_flags", "mt5_like")


@pytest.fixture(params=tokenizer_files.KINDS)
def kind(request):
  return request.param


def theirs_of(folder):
  return transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))


def test_ids_and_text_are_those_of_transformers(kind, tmp_path):
  vocabulary = HuggingFaceTokenizer(tokenizer_files.write(kind, tmp_path))
  theirs = theirs_of(tmp_path)
  assert len(tokenizer_files.TEXTS) == 40
  for text in tokenizer_files.TEXTS:
    expected = theirs.encode(text, add_special_tokens=False)
    ids = [i - vocabulary.offset for i in vocabulary.encode(text)]
    assert ids == expected, text
    decoded = theirs.decode(
      expected, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert vocabulary.decode([i + vocabulary.offset for i in ids]) == decoded


@pytest.mark.parametrize(
  "settings",
  [
    {},
    {"do_lower_case": False, "tokenize_chinese_chars": False},
    {"strip_accents": False, "unk_token": "the", "mask_token": "cat"},
  ],
)
def test_a_vocab_txt_is_read_as_transformers_reads_it(settings, tmp_path):
  ids = tokenizer_files.word_piece(lowercase=False).get_vocab()
  (tmp_path / "vocab.txt").write_text("\n".join(sorted(ids, key=ids.get)))
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
  theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
  vocabulary = HuggingFaceTokenizer(tmp_path / "vocab.txt", eos="[SEP]")
  for text in (*tokenizer_files.TEXTS, "a [MASK] b[SEP]"):
    expected = theirs.encode(text, add_special_tokens=False)
    assert vocabulary.encode(text) == expected, text
  assert vocabulary.unk_id == theirs.unk_token_id


@pytest.mark.parametrize(
  ("model_type", "settings"),
  [
    ("gpt2", {}),
    ("opt", {"add_bos_token": True, "bos_token": "</s>", "unk_token": "</s>"}),
    ("roberta", {}),
    ("bart", {"add_prefix_space": True, "cls_token": "<pad>"}),
  ],
)
def test_a_vocab_json_with_merges_is_read_as_transformers_reads_it(
  model_type, settings, tmp_path
):
  pair = model_type in ("roberta", "bart")
  special = ["<s>", "<pad>", "</s>", "<unk>"] if settings or pair else []
  special += ["<mask>"] if pair else ["<|endoftext|>"] if not settings else []
  tokenizer_files.byte_level(first=special).model.save(str(tmp_path))
  settings = {"eos_token": special[2 if len(special) > 1 else 0], **settings}
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
  (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  vocabulary = HuggingFaceTokenizer(tmp_path / "vocab.json")
  marked = ["a</s>b", "the <mask> sat", "a<|endoftext|> b"]
  for text in (*tokenizer_files.TEXTS, *marked):
    expected = theirs.encode(text, add_special_tokens=False)
    ids = [i - vocabulary.offset for i in vocabulary.encode(text)]
    assert ids == expected, text
  found = files_lib.read(tmp_path, is_encoder_decoder=model_type == "bart")
  around = theirs.convert_ids_to_tokens(theirs.encode(""))
  assert [*found.before, *found.after] == around


BLANKS = [
  "<extra_id_0>", "a <extra_id_0> b", "the <extra_id_0>\n", "<extra_id_1> cat",
  "the cat <extra_id_0> on <extra_id_4>.", "<extra_id_0> <extra_id_1>",
  "the  <extra_id_2>  cat", "<extra_id_0>able", "<extra_id_5> the",
]  # fmt: skip


@pytest.mark.parametrize("kind", WITH_OWN)
def test_sentinels_of_a_file_are_what_transformers_reads(kind, tmp_path):
  vocabulary = HuggingFaceTokenizer(tokenizer_files.write(kind, tmp_path))
  theirs = theirs_of(tmp_path)
  mark = "▁" if kind == "mt5_like" else ""
  names = [f"{mark}<extra_id_{n}>" for n in range(5)]
  assert list(vocabulary.sentinel_ids) == theirs.convert_tokens_to_ids(names)
  assert vocabulary.extra_ids == vocabularies.num_sentinels(vocabulary) == 5
  assert vocabulary.vocab_size == len(theirs)
  for text in BLANKS:
    expected = theirs.encode(text, add_special_tokens=False)
    assert vocabulary.encode(text) == expected, text
    if vocabulary.unk_id not in expected:  # It is special, and no text.
      assert vocabulary.decode(expected) == theirs.decode(
        expected, clean_up_tokenization_spaces=False
      )


@pytest.mark.parametrize("kind", WITH_OWN)
def test_a_sentinel_within_a_word_is_one_token(kind, tmp_path):
  vocabulary = HuggingFaceTokenizer(tokenizer_files.write(kind, tmp_path))
  ids = vocabulary.encode("un<extra_id_3>able<extra_id_0><extra_id_1>")
  found = [i for i in ids if i in vocabulary.sentinel_ids]
  assert found == [vocabulary.sentinel_ids[n] for n in (3, 0, 1)]
  assert len(set(ids) - set(found)) <= 3  # and nothing is spelt out


@pytest.mark.parametrize(
  "kind", sorted(tokenizer_files.KINDS.keys() - set(WITH_OWN))
)
def test_added_sentinels_cut_a_text_between_its_tokens(kind, tmp_path):
  # As span corruption does it: whatever token a sentinel takes the place of,
  # the others stay.
  vocabulary = HuggingFaceTokenizer(
    tokenizer_files.write(kind, tmp_path), extra_ids=3
  )
  last = vocabulary.vocab_size - 1
  assert vocabulary.sentinel_ids == (last, last - 1, last - 2)
  whole = vocabulary.encode("the cat sat")
  for text, first in [
    ("<extra_id_0> cat sat", vocabulary.encode("the")),
    ("the <extra_id_0> sat", None),
  ]:
    ids = vocabulary.encode(text)
    assert len(ids) <= len(whole)  # What follows is not spelt out.
    at = ids.index(last)
    gone = len(whole) - len(ids) + 1
    assert ids == [*whole[:at], last, *whole[at + gone :]]
    assert first is None or whole[:gone] == first
  assert vocabulary.encode("the cat <extra_id_2>")[-1] == last - 2
  cut = vocabulary.encode("the c<extra_id_0>at")
  rest = vocabulary.decode([*cut[: cut.index(last)], *cut[-1:]])
  assert rest.split()[0] == "the" and cut.count(last) == 1


@pytest.mark.parametrize("kind", ["xlm_r_like", "deberta_like", "llama_like"])
def test_after_a_sentinel_words_keep_the_mark_of_their_space(kind, tmp_path):
  vocabulary = HuggingFaceTokenizer(tokenizer_files.write(kind, tmp_path))
  words = "the cat sat".split()
  the, cat, sat = map(vocabulary.encode, words)
  blank = vocabulary.sentinel_ids[0]
  assert vocabulary.encode("<extra_id_0> cat sat") == [blank, *cat, *sat]
  assert vocabulary.encode("the <extra_id_0> sat") == [*the, blank, *sat]
  within = vocabulary.encode("the c<extra_id_0>at sat")
  assert within[-len(sat) :] == sat
  assert vocabulary.decode(within).endswith("<extra_id_0>at sat")


def test_a_tokenizer_may_have_no_sentinels(tmp_path):
  path = tokenizer_files.write("byte_level", tmp_path)
  vocabulary = HuggingFaceTokenizer(path, extra_ids=0)
  assert vocabulary.sentinel_ids == ()
  assert vocabulary.vocab_size == vocabulary.eos_id + 1
  text = "a <extra_id_0>"
  assert vocabulary.decode(vocabulary.encode(text)) == text


def test_bytes_of_tokens_ascend_beside_a_token_that_is_spelt_out(tmp_path):
  path = tokenizer_files.write("byte_level_with_prefix", tmp_path)
  ids, last = HuggingFaceTokenizer(path).encode_with_bytes(b"a<s>x y")
  assert len(ids) == len(last) and (last[1:] >= last[:-1]).all()
  assert (last < len("a<s>x y")).all()


@pytest.mark.parametrize(
  ("kind", "beside", "end"),
  [
    ("gemma_like", {}, "<eos>"),
    ("gemma_like", {"tokenizer_config": {"eos_token": "</b>"}}, "</b>"),
    (
      "gemma_like",
      {"special_tokens_map": {"eos_token": {"content": "</s>"}}},
      "</s>",
    ),
    ("llama_like", {}, "</s>"),
    ("llama_like", {"generation_config": {"eos_token_id": 1}}, "<s>"),
    ("llama_like", {"config": {"eos_token_id": [1]}}, "<s>"),
    ("word_piece_cased", {}, "[SEP]"),
    ("byte_level_with_prefix", {}, "</s>"),  # and <|endoftext|> is special
    ("byte_level", {}, "<|endoftext|>"),
    ("t5_like", {"generation_config": {"eos_token_id": 0}}, "</s>"),
    ("mt5_like", {}, "</s>"),
    ("word_level", {}, None),
  ],
)
def test_what_ends_a_text_is_found_by_what_the_files_say(
  kind, beside, end, tmp_path
):
  path = tokenizer_files.write(kind, tmp_path, **beside)
  vocabulary = HuggingFaceTokenizer(path)
  expected = tokenizers.Tokenizer.from_file(path).token_to_id(end or "")
  if end is not None:
    expected += vocabulary.offset
  assert vocabulary.eos_id == text_lib.eos_id(vocabulary) == expected


@pytest.mark.parametrize(
  "beside", [{"generation_config": {"eos_token_id": [1, 4]}}, {}]
)
def test_an_end_that_is_not_clear_has_to_be_named(beside, tmp_path):
  path = tokenizer_files.write("llama_like", tmp_path, **beside)
  if not beside:
    tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(path)
  with pytest.raises(ValueError, match="several .* choose one .eos=") as error:
    _ = HuggingFaceTokenizer(path).eos_id
  assert "\n" not in str(error.value)
  assert HuggingFaceTokenizer(path, eos="</s>").eos_id == 2


def test_an_unknown_word_is_a_token_even_if_its_id_is_0(tmp_path):
  vocabulary = HuggingFaceTokenizer(
    tokenizer_files.write("word_level", tmp_path)
  )
  assert vocabulary.offset == 0 and vocabulary.unk_id == 0
  ids = vocabulary.encode("the qqq cat")
  assert [ids[0], ids[2]] == vocabulary.encode("the cat") and ids[1] == 0


def test_tokens_named_beside_the_file_are_added_as_transformers_does(tmp_path):
  flags = {
    "content": "<later>", "lstrip": True, "rstrip": False, "special": False,
    "normalized": True, "single_word": False,
  }  # fmt: skip
  for n, config in enumerate(
    [
      {"eos_token": "h", "extra_special_tokens": ["<more>"]},
      {"added_tokens_decoder": {"1000": flags}, "pad_token": "!"},
    ]
  ):
    folder = tmp_path / str(n)
    folder.mkdir()
    path = tokenizer_files.write("byte_level", folder, tokenizer_config=config)
    vocabulary, theirs = HuggingFaceTokenizer(path), theirs_of(folder)
    for text in ("the cat", "a <more>b", "the <later> cat!", "the<later>"):
      expected = theirs.encode(text, add_special_tokens=False)
      ids = [i - vocabulary.offset for i in vocabulary.encode(text)]
      assert ids == expected, (config, text)
    assert vocabulary.vocab_size - 100 - vocabulary.offset == len(theirs)


def test_an_end_that_the_file_lacks_is_missed(tmp_path):
  config = {"eos_token": "<end>"}
  path = tokenizer_files.write("byte_level", tmp_path, tokenizer_config=config)
  with pytest.raises(ValueError, match="has no token <end>: set its end"):
    _ = HuggingFaceTokenizer(path).eos_id
  assert HuggingFaceTokenizer(path, eos="<|endoftext|>").eos_id


def test_a_prefixed_space_comes_back_as_in_transformers(tmp_path):
  vocabulary = HuggingFaceTokenizer(
    tokenizer_files.write("byte_level_with_prefix", tmp_path), extra_ids=2
  )
  ids = vocabulary.encode("the cat")
  assert vocabulary.decode(ids) == " the cat"
  assert vocabulary.encode(" the cat") == ids
  # Not within a text: what follows a sentinel goes on.
  text = vocabulary.decode(vocabulary.encode("the <extra_id_0>at"))
  assert text == " the<extra_id_0>at"
  # Decoded in parts, a text is the same.
  parts = [vocabulary.decode(ids[:n]) for n in range(len(ids) + 1)]
  assert all(b.startswith(a) for a, b in zip(parts, parts[1:], strict=False))
