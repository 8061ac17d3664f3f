"""Ways in which a Hugging Face directory may be damaged, or made to mislead.

What is changed, and a part of the line that `convert` prints.
"""

import math

# Options of config.json: the last one that is wrong is named.
OPTIONS = [
  ("num_layers", 10**9, "num_layers is 1000000000, but the weights beside it"),
  ("num_decoder_layers", 10**9, "num_decoder_layers is 1000000000, but the we"),
  ("num_layers", 0, "num_layers is 0, and must be at least 1"),
  ("num_layers", "two", "num_layers is 'two', not a whole number"),
  ("num_layers", 2.5, "num_layers is 2.5, not a whole number"),
  ("num_layers", True, "num_layers is True, not a whole number"),
  ("num_layers", [2], "num_layers is [2], not a whole number"),
  ("d_model", 10**12, "width (1000000000000) must be at most 2147483647"),
  ("d_model", -20, "d_model is -20"),
  ("d_model", None, "has no d_model"),
  ("d_ff", 10**9, "parameters, but the weights beside it are only"),
  ("d_ff", 10**30, "must be at most 2147483647"),
  ("d_kv", 10**8, "parameters, but the weights beside it are only"),
  ("num_heads", 2 * 10**9, "parameters, but the weights beside it are only"),
  ("num_heads", 0, "num_heads is 0"),
  ("vocab_size", 10**9, "parameters, but the weights beside it are only"),
  ("vocab_size", 10**20, "must be at most 2147483647"),
  ("vocab_size", "384", "vocab_size is '384', not a whole number"),
  ("vocab_size", 385, "do not fit its config.json"),
  ("relative_attention_num_buckets", 10**9, "max_distance (12) must be great"),
  ("relative_attention_num_buckets", 1, "num_buckets (1) must be at least"),
  ("relative_attention_max_distance", 0, "max_distance is 0"),
  ("layer_norm_epsilon", -1e-6, "epsilon (-1e-06) must be at least 0"),
  ("layer_norm_epsilon", math.nan, "epsilon (nan) must be a finite number"),
  ("layer_norm_epsilon", math.inf, "epsilon (inf) must be a finite number"),
  ("layer_norm_epsilon", "small", "layer_norm_epsilon is 'small'"),
  ("dropout_rate", 1.5, "dropout_rate (1.5) must be in [0, 1)"),
  ("dropout_rate", -0.1, "dropout_rate (-0.1) must be in [0, 1)"),
  ("feed_forward_proj", 5, "feed_forward_proj is 5"),
  ("model_type", ["t5"], "model_type is ['t5'], which is not supported"),
  ("model_type", {}, "model_type is {}, which is not supported"),
  ("model_type", None, "model_type is None, which is not supported"),
  ("model_type", 5, "model_type is 5, which is not supported"),
  ("model_type", "nonesuch", "model_type is 'nonesuch'"),
  ("decoder_start_token_id", -1, "decoder_start_token_id is -1"),
  ("decoder_start_token_id", 10**9, "decoder_start_token_id is 1000000000"),
  ("eos_token_id", "end", "eos_token_id ('end') must be a token id"),
  ("surprise", 1, "options that are not supported: surprise = 1"),
]  # fmt: skip

_DEEP = b'{"a": ' * 5000 + b"1" + b"}" * 5000
_NESTED = b'{"model_type": ' + b"[" * 300 + b"]" * 300 + b"}"
_NOISE = bytes(range(256)) * 4
_INDEX = "model.safetensors.index.json"


def _index(weight_map: str) -> bytes:
  return b'{"weight_map": %s}' % weight_map.encode()


# Files that are replaced; an index takes the place of the weights.
FILES = [
  ("config.json", b"", "config.json is damaged: it is empty"),
  ("config.json", b"{", "config.json is damaged: it is not JSON"),
  ("config.json", b"[]", "config.json is damaged: it is not a JSON object"),
  ("config.json", b"5", "config.json is damaged: it is not a JSON object"),
  ("config.json", _DEEP, "it is nested more than 100 levels deep"),
  ("config.json", _NESTED, "nested more than 100 levels deep"),
  ("config.json", _NOISE, "config.json is damaged: it is not JSON"),
  ("config.json", b'{"model_type": "t5"}', "config.json has no"),
  ("config.json", b'{"d_model": 1%s}' % (b"0" * 5000), "is not JSON"),
  ("model.safetensors", b"", "model.safetensors (0 bytes) is cut short"),
  ("model.safetensors", _NOISE, "is cut short or damaged"),
  ("model.safetensors", b"\xff" * 8, "is cut short or damaged"),
  ("generation_config.json", b"[", "generation_config.json is damaged"),
  ("generation_config.json", b'{"stop_strings": "a"}', "--ignore=stop_strings"),
  ("tokenizer_config.json", b"[1]", "tokenizer_config.json"),
  ("tokenizer_config.json", _DEEP, "tokenizer_config.json"),
  ("spiece.model", b"", "spiece.model (0 bytes) is no SentencePiece model"),
  ("spiece.model", _NOISE, "is no SentencePiece model: it is cut short or"),
  (_INDEX, b"{}", "index.json is damaged: it lacks 'weight_map'"),
  (_INDEX, _index("[]"), "weight_map is not an object"),
  (_INDEX, _index('{"a": 5}'), "weight_map has a in 5, which is not the name"),
  (_INDEX, _index('{"a": ["b"]}'), "weight_map has a in ['b'], which is not"),
  (_INDEX, _index('{"a": "../hf/model.safetensors"}'), "which is not the"),
  (_INDEX, _index('{"a": "/tmp/x.safetensors"}'), "which is not the name of a"),
  (_INDEX, _index('{"a": ".."}'), "which is not the name of a .safetens"),
  (_INDEX, _index('{"a": ""}'), "which is not the name of a .safetens"),
  (_INDEX, _index('{"a": "none.safetensors"}'), "lacks none.safetensors"),
]  # fmt: skip
