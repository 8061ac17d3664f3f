"""Presets are what the published config.json files say.

The options are those that say something of the model, and the leftovers that a
reader must know. docs/presets.md has the counts.
"""

import math

import pytest

from launch import config
from t5x_lite.interop import settings
from t5x_lite.model import Model
from tests.interop import parity

GENERAL = {
  "architectures": ["X"], "bos_token_id": 1, "eos_token_id": 2,
  "initializer_range": 0.02, "torch_dtype": "bfloat16",
  "transformers_version": "4.41.2", "use_cache": True,
}  # fmt: skip
GPT = {
  "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1,
  "layer_norm_epsilon": 1e-05, "summary_activation": None,
  "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
  "summary_type": "cls_index", "summary_use_proj": True,
  "task_specific_params": {"text-generation": {"do_sample": True}},
}  # fmt: skip
BERT = {
  "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False,
  "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
  "intermediate_size": 3072, "num_attention_heads": 12,
  "num_hidden_layers": 12,
}  # fmt: skip
T5 = {
  "decoder_start_token_id": 0, "dropout_rate": 0.1, "initializer_factor": 1.0,
  "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "pad_token_id": 0,
  "relative_attention_num_buckets": 32,
}  # fmt: skip
UNTIED = {"tie_word_embeddings": False}
OPT = {
  "_remove_final_layer_norm": False, "activation_dropout": 0.0,
  "activation_function": "relu", "attention_dropout": 0.0, "dropout": 0.1,
  "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
  "pad_token_id": 1, "prefix": "</s>", "vocab_size": 50272,
}  # fmt: skip

PUBLISHED = {
  "llama2/7b": ("llama", {
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
    "max_position_embeddings": 4096, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
    "vocab_size": 32000,
  }),
  "llama3_1/8b": ("llama", {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
    "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": False,
    "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
      "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": False, "vocab_size": 128256,
  }),
  "mistral/7b": ("mistral", {
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": False, "vocab_size": 32000,
  }),
  "mixtral/8x7b": ("mixtral", {
    "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 32768,
    "num_attention_heads": 32, "num_experts_per_tok": 2,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "output_router_logits": False, "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
    "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000,
  }),
  "qwen2/0.5b": ("qwen2", {
    "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896,
    "intermediate_size": 4864, "max_position_embeddings": 131072,
    "max_window_layers": 24, "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 131072,
    "tie_word_embeddings": True, "use_sliding_window": False,
    "vocab_size": 151936,
  }),
  "qwen2/7b": ("qwen2", {
    "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 3584,
    "intermediate_size": 18944, "max_position_embeddings": 131072,
    "max_window_layers": 28, "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 131072,
    "tie_word_embeddings": False, "use_sliding_window": False,
    "vocab_size": 152064,
  }),
  "gemma/2b": ("gemma", {
    "attention_bias": False, "attention_dropout": 0.0, "head_dim": 256,
    "hidden_act": "gelu", "hidden_activation": None, "hidden_size": 2048,
    "intermediate_size": 16384, "max_position_embeddings": 8192,
    "num_attention_heads": 8, "num_hidden_layers": 18,
    "num_key_value_heads": 1, "pad_token_id": 0, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 10000.0, "vocab_size": 256000,
  }),
  "glm/9b": ("glm", {
    "attention_bias": True, "attention_dropout": 0.0, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 13696,
    "max_position_embeddings": 8192, "num_attention_heads": 32,
    "num_hidden_layers": 40, "num_key_value_heads": 2, "pad_token_id": 151329,
    "partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "vocab_size": 151552,
  }),
  "gpt1/base": ("openai-gpt", {
    **GPT, "afn": "gelu", "n_ctx": 512, "n_embd": 768, "n_head": 12,
    "n_layer": 12, "n_positions": 512, "n_special": 0,
    "predict_special_tokens": True, "vocab_size": 40478,
  }),
  "gpt2/small": ("gpt2", {
    **GPT, "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 768,
    "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
  }),
  "gptj/6b": ("gptj", {
    **GPT, "activation_function": "gelu_new", "gradient_checkpointing": False,
    "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28,
    "n_positions": 2048, "rotary": True, "rotary_dim": 64,
    "scale_attn_weights": True, "tie_word_embeddings": False,
    "tokenizer_class": "GPT2Tokenizer", "vocab_size": 50400,
  }),
  "gpt_neox/20b": ("gpt_neox", {
    "attention_probs_dropout_prob": 0, "hidden_act": "gelu_fast",
    "hidden_dropout_prob": 0, "hidden_size": 6144, "intermediate_size": 24576,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
    "num_attention_heads": 64, "num_hidden_layers": 44,
    "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
    "vocab_size": 50432,
  }),
  "bloom/176b": ("bloom", {
    "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True, "hidden_dropout": 0.0,
    "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": True,
    "n_embed": 14336, "n_layer": 70, "num_attention_heads": 112,
    "pretraining_tp": 4, "slow_but_exact": False, "vocab_size": 250880,
  }),
  "opt/125m": ("opt", {
    **OPT, "do_layer_norm_before": True, "ffn_dim": 3072, "hidden_size": 768,
    "num_attention_heads": 12, "num_hidden_layers": 12,
    "word_embed_proj_dim": 768,
  }),
  "opt/350m": ("opt", {
    **OPT, "do_layer_norm_before": False, "ffn_dim": 4096, "hidden_size": 1024,
    "num_attention_heads": 16, "num_hidden_layers": 24,
    "word_embed_proj_dim": 512,
  }),
  "falcon/7b": ("falcon", {
    "alibi": False, "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0, "bias": False, "hidden_dropout": 0.0,
    "hidden_size": 4544, "layer_norm_epsilon": 1e-05, "multi_query": True,
    "new_decoder_architecture": False, "num_attention_heads": 71,
    "num_hidden_layers": 32, "parallel_attn": True, "vocab_size": 65024,
  }),
  "falcon/40b": ("falcon", {
    "alibi": False, "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0, "bias": False, "hidden_dropout": 0.0,
    "hidden_size": 8192, "layer_norm_epsilon": 1e-05,
    "new_decoder_architecture": True, "num_attention_heads": 128,
    "num_hidden_layers": 60, "num_kv_heads": 8, "parallel_attn": True,
    "vocab_size": 65024,
  }),
  "bert/base": ("bert", {
    **BERT, "architectures": ["BertForPreTraining"], "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "pad_token_id": 0, "type_vocab_size": 2,
    "position_embedding_type": "absolute", "vocab_size": 30522,
  }),
  "roberta/base": ("roberta", {
    **BERT, "architectures": ["RobertaForMaskedLM"], "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1,
    "vocab_size": 50265,
  }),
  "bart/large": ("bart", {
    "activation_dropout": 0.1, "activation_function": "gelu",
    "add_bias_logits": False, "add_final_layer_norm": False,
    "architectures": ["BartForConditionalGeneration"],
    "attention_dropout": 0.1, "classif_dropout": 0.1,
    "classifier_dropout": 0.0, "d_model": 1024,
    "decoder_attention_heads": 16, "decoder_ffn_dim": 4096,
    "decoder_layerdrop": 0.0, "decoder_layers": 12,
    "decoder_start_token_id": 2, "dropout": 0.1, "early_stopping": True,
    "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.0, "encoder_layers": 12,
    "forced_eos_token_id": 2, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0"}, "init_std": 0.02,
    "is_encoder_decoder": True, "label2id": {"LABEL_0": 0},
    "max_position_embeddings": 1024, "no_repeat_ngram_size": 3,
    "normalize_before": False, "num_beams": 4, "num_hidden_layers": 12,
    "pad_token_id": 1, "scale_embedding": False, "vocab_size": 50265,
  }),
  "t5/small": ("t5", {
    **T5, "d_ff": 2048, "d_kv": 64, "d_model": 512, "n_positions": 512,
    "num_heads": 8, "num_layers": 6, "vocab_size": 32128,
  }),
  "t5_1_1/base": ("t5", {
    **T5, **UNTIED, "d_ff": 2048, "d_kv": 64, "d_model": 768,
    "feed_forward_proj": "gated-gelu", "num_decoder_layers": 12,
    "num_heads": 12, "num_layers": 12, "vocab_size": 32128,
  }),
  "byt5/small": ("t5", {
    **T5, **UNTIED, "d_ff": 3584, "d_kv": 64, "d_model": 1472,
    "feed_forward_proj": "gated-gelu", "gradient_checkpointing": False,
    "num_decoder_layers": 4, "num_heads": 6, "num_layers": 12,
    "tokenizer_class": "ByT5Tokenizer", "vocab_size": 384,
  }),
  "mt5/small": ("mt5", {
    **T5, **UNTIED, "d_ff": 1024, "d_kv": 64, "d_model": 512,
    "feed_forward_proj": "gated-gelu", "num_decoder_layers": 8,
    "num_heads": 6, "num_layers": 8, "tokenizer_class": "T5Tokenizer",
    "vocab_size": 250112,
  }),
}  # fmt: skip


class Names:
  """Stands for the tensors beside a configuration."""

  num_tensors = math.inf

  def __init__(self, tied):
    self._tied = tied

  def tied(self, name, to):
    return self._tied


@pytest.mark.parametrize("preset", PUBLISHED)
def test_preset_is_what_the_published_configuration_says(preset):
  model_type, options = PUBLISHED[preset]
  config.load([f"models/{preset}.gin"])
  ours = config.build(Model).transformer
  names = Names(options.get("tie_word_embeddings", True))
  theirs = parity.read(model_type, {**GENERAL, **options}, names=names)
  assert settings.differences(ours, theirs) == []


@pytest.mark.parametrize("preset", PUBLISHED)
def test_options_beyond_are_refused(preset):
  model_type, options = PUBLISHED[preset]
  names = Names(True)
  parity.refused(model_type, options, names, quantization_config={"bits": 4})
  parity.refused(model_type, options, names, attention_sinks=4)
