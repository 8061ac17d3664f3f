"""Published config.json files are read, and give the published counts.

The options are those that say something of the model, and the leftovers that a
reader must know; counts are those of the parameters in the published files.
"""

import math

import jax
import pytest

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
OPT = {
  "_remove_final_layer_norm": False, "activation_dropout": 0.0,
  "activation_function": "relu", "attention_dropout": 0.0, "dropout": 0.1,
  "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048,
  "pad_token_id": 1, "prefix": "</s>", "vocab_size": 50272,
}  # fmt: skip

PUBLISHED = {
  "Llama-2-7b": (6_738_415_616, "llama", {
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
    "max_position_embeddings": 4096, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
    "vocab_size": 32000,
  }),
  "Llama-3.1-8B": (8_030_261_248, "llama", {
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
  "Mistral-7B-v0.1": (7_241_732_096, "mistral", {
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "sliding_window": 4096,
    "tie_word_embeddings": False, "vocab_size": 32000,
  }),
  "Mixtral-8x7B-v0.1": (46_702_792_704, "mixtral", {
    "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 14336, "max_position_embeddings": 32768,
    "num_attention_heads": 32, "num_experts_per_tok": 2,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "output_router_logits": False, "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
    "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000,
  }),
  "Qwen2-0.5B": (494_032_768, "qwen2", {
    "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896,
    "intermediate_size": 4864, "max_position_embeddings": 131072,
    "max_window_layers": 24, "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 131072,
    "tie_word_embeddings": True, "use_sliding_window": False,
    "vocab_size": 151936,
  }),
  "Qwen2-7B": (7_615_616_512, "qwen2", {
    "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 3584,
    "intermediate_size": 18944, "max_position_embeddings": 131072,
    "max_window_layers": 28, "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 131072,
    "tie_word_embeddings": False, "use_sliding_window": False,
    "vocab_size": 152064,
  }),
  "gemma-2b": (2_506_172_416, "gemma", {
    "attention_bias": False, "attention_dropout": 0.0, "head_dim": 256,
    "hidden_act": "gelu", "hidden_activation": None, "hidden_size": 2048,
    "intermediate_size": 16384, "max_position_embeddings": 8192,
    "num_attention_heads": 8, "num_hidden_layers": 18,
    "num_key_value_heads": 1, "pad_token_id": 0, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 10000.0, "vocab_size": 256000,
  }),
  "glm-4-9b": (9_399_951_360, "glm", {
    "attention_bias": True, "attention_dropout": 0.0, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 13696,
    "max_position_embeddings": 8192, "num_attention_heads": 32,
    "num_hidden_layers": 40, "num_key_value_heads": 2, "pad_token_id": 151329,
    "partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "vocab_size": 151552,
  }),
  "openai-gpt": (116_534_784, "openai-gpt", {
    **GPT, "afn": "gelu", "n_ctx": 512, "n_embd": 768, "n_head": 12,
    "n_layer": 12, "n_positions": 512, "n_special": 0,
    "predict_special_tokens": True, "vocab_size": 40478,
  }),
  "gpt2": (124_439_808, "gpt2", {
    **GPT, "activation_function": "gelu_new", "n_ctx": 1024, "n_embd": 768,
    "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
  }),
  "gpt-j-6b": (6_050_882_784, "gptj", {
    **GPT, "activation_function": "gelu_new", "gradient_checkpointing": False,
    "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28,
    "n_positions": 2048, "rotary": True, "rotary_dim": 64,
    "scale_attn_weights": True, "tie_word_embeddings": False,
    "tokenizer_class": "GPT2Tokenizer", "vocab_size": 50400,
  }),
  "gpt-neox-20b": (20_554_567_680, "gpt_neox", {
    "attention_probs_dropout_prob": 0, "hidden_act": "gelu_fast",
    "hidden_dropout_prob": 0, "hidden_size": 6144, "intermediate_size": 24576,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 2048,
    "num_attention_heads": 64, "num_hidden_layers": 44,
    "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
    "vocab_size": 50432,
  }),
  "bloom": (176_247_271_424, "bloom", {
    "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True, "hidden_dropout": 0.0,
    "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": True,
    "n_embed": 14336, "n_layer": 70, "num_attention_heads": 112,
    "pretraining_tp": 4, "slow_but_exact": False, "vocab_size": 250880,
  }),
  "opt-125m": (125_239_296, "opt", {
    **OPT, "do_layer_norm_before": True, "ffn_dim": 3072, "hidden_size": 768,
    "num_attention_heads": 12, "num_hidden_layers": 12,
    "word_embed_proj_dim": 768,
  }),
  "opt-350m": (331_196_416, "opt", {
    **OPT, "do_layer_norm_before": False, "ffn_dim": 4096, "hidden_size": 1024,
    "num_attention_heads": 16, "num_hidden_layers": 24,
    "word_embed_proj_dim": 512,
  }),
  "falcon-7b": (6_921_720_704, "falcon", {
    "alibi": False, "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0, "bias": False, "hidden_dropout": 0.0,
    "hidden_size": 4544, "layer_norm_epsilon": 1e-05, "multi_query": True,
    "new_decoder_architecture": False, "num_attention_heads": 71,
    "num_hidden_layers": 32, "parallel_attn": True, "vocab_size": 65024,
  }),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configuration_has_the_published_count(name):
  count, model_type, options = PUBLISHED[name]
  transformer = parity.read(model_type, {**GENERAL, **options})
  stack = transformer.decoder.clone(scan=True)  # Quicker to trace.
  model = Model(transformer=transformer.clone(decoder=stack))
  leaves = jax.tree.leaves(model.abstract())
  assert sum(math.prod(leaf.shape) for leaf in leaves) == count


@pytest.mark.parametrize("name", PUBLISHED)
def test_options_beyond_are_refused(name):
  _, model_type, options = PUBLISHED[name]
  parity.refused(model_type, options, quantization_config={"bits": 4})
  parity.refused(model_type, options, attention_sinks=4)
