"""The model stack: every architecture of the field from the same few parts.

Tensors here carry their shape in their name, `q_BNTH`, by this one table:

  B batch      T query length   S key length    D model width
  N heads      K kv heads       G = N / K       H head_dim
  F hidden     E experts        C capacity      L layers       V vocabulary
"""

from etils import epy

with epy.lazy_api_imports(globals()):
  from t5x_lite.nn.attention import Attention, CoreAttention, Projections
  from t5x_lite.nn.attention_rules import Causal, Full, PrefixCausal, Window
  from t5x_lite.nn.embedding import Embedding
  from t5x_lite.nn.feedforward import MLP, Gated
  from t5x_lite.nn.heads import Classifier, LMHead
  from t5x_lite.nn.moe import MoE
  from t5x_lite.nn.norms import LayerNorm, RMSNorm
  from t5x_lite.nn.positions import (
    Alibi,
    Learned,
    NoPosition,
    Rope,
    Sinusoidal,
    T5Bias,
  )
  from t5x_lite.nn.stack import Layer, Stack
  from t5x_lite.nn.transformer import Transformer
