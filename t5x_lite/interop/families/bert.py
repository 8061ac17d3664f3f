"""BERT: an encoder with post-norm, for masked words and next sentences.

Devlin et al. 2019, arXiv:1810.04805. RoBERTa shares its parts (roberta.py).
"""

from t5x_lite.interop import activations
from t5x_lite.interop.config import Config
from t5x_lite.interop.tables import (
  FROM_HEADS,
  TO_HEADS,
  Entry,
  Table,
  dense,
  norm,
  under,
)
from t5x_lite.nn.attention import Attention
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.heads import Classifier, HeadTransform
from t5x_lite.nn.norms import LayerNorm
from t5x_lite.nn.positions import Learned
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer
from t5x_lite.nn.visibility import Full

MODEL_TYPES = {"bert": "BertForMaskedLM"}

_WITH_NEXT_SENTENCE = "BertForPreTraining"

# Early files describe a pooler, which no model has had.
_POOLER = (
  "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
  "pooler_size_per_head", "pooler_type",
)  # fmt: skip

EMBEDDING = "embeddings.word_embeddings.weight"

# Without the family's prefix.
ENCODER = [
  Entry(EMBEDDING, "token_embedding"),
  Entry(
    "embeddings.position_embeddings.weight",
    "encoder/position/position_embedding",
  ),
  Entry("embeddings.token_type_embeddings.weight", "type_embedding"),
  *norm("embeddings.LayerNorm", "encoder/input_norm"),
  *under("encoder.layer.{i}.", "encoder/layer_{i}/", [
    *dense("attention.self.query", "attention/query", TO_HEADS),
    *dense("attention.self.key", "attention/key", TO_HEADS),
    *dense("attention.self.value", "attention/value", TO_HEADS),
    *dense("attention.output.dense", "attention/out", FROM_HEADS),
    *norm("attention.output.LayerNorm", "attention_norm"),
    *dense("intermediate.dense", "mlp/wi"),
    *dense("output.dense", "mlp/wo"),
    *norm("output.LayerNorm", "mlp_norm"),
  ]),
]  # fmt: skip

TENSORS = Table(
  entries=[
    *under("bert.", "", ENCODER),
    *under("cls.predictions.", "", [
      *dense("transform.dense", "head_transform/dense"),
      *norm("transform.LayerNorm", "head_transform/norm"),
      Entry("bias", "head_bias"),
    ]),
    *dense("bert.pooler.dense", "classifier/dense"),
    *dense("cls.seq_relationship", "classifier/logits"),
  ],
  copies={
    "cls.predictions.decoder.weight": f"bert.{EMBEDDING}",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
  },
  # Files of BertForMaskedLM may keep what predicts next sentences.
  unread=[
    r"bert\.embeddings\.position_ids", r"bert\.pooler\..*",
    r"cls\.seq_relationship\..*",
  ],
  renames=[(r"LayerNorm\.gamma$", "LayerNorm.weight"),
           (r"LayerNorm\.beta$", "LayerNorm.bias")],
)  # fmt: skip


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  of = config.architecture(MODEL_TYPES["bert"], _WITH_NEXT_SENTENCE)
  config.without_effect("directionality", *_POOLER)
  activation = config.choice("hidden_act", activations.ACTIVATIONS, "gelu")
  classifier = None
  if of == _WITH_NEXT_SENTENCE:
    classifier = Classifier(num_classes=2, pool="first", transform="tanh")
  return read_encoder(
    config, activation=activation, classifier=classifier, offset=0
  )


def read_encoder(
  config: Config,
  *,
  activation: str,
  offset: int,
  classifier: Classifier | None = None,
) -> Transformer:
  """Builds an encoder that predicts masked words.

  Args:
    config: of the family.
    activation: of the transform before the head.
    offset: rows of the position table that no position has.
    classifier: beside the words, or None.
  """
  config.expect("position_embedding_type", "absolute")
  for name in ("is_decoder", "is_encoder_decoder", "add_cross_attention"):
    config.expect(name, False)
  config.expect("tie_word_embeddings", True)
  layer_norm = LayerNorm(epsilon=config.number("layer_norm_eps", 1e-12))
  dropout = config.number("hidden_dropout_prob", 0.1)
  layer = Layer(
    attention=Attention(
      num_heads=config.integer("num_attention_heads"),
      head_dim=config.share("hidden_size", "num_attention_heads"),
      use_bias=True,
      dropout_rate=config.number("attention_probs_dropout_prob", 0.1),
    ),
    mlp=MLP(
      hidden=config.integer("intermediate_size"),
      activation=config.choice("hidden_act", activations.ACTIVATIONS, "gelu"),
      use_bias=True,
    ),
    norm=layer_norm,
    placement="post",
    dropout_rate=dropout,
  )
  max_length = config.integer("max_position_embeddings", 512) - offset
  return Transformer(
    width=config.integer("hidden_size"),
    vocab_size=config.integer("vocab_size"),
    encoder=Stack(
      layer=layer,
      num_layers=config.integer("num_hidden_layers"),
      rule=Full(),
      position=Learned(max_length=max_length, offset=offset),
      input_norm=layer_norm,
      dropout_rate=dropout,
    ),
    num_token_types=config.integer("type_vocab_size", 2),
    tie_embeddings=True,
    head_transform=HeadTransform(norm=layer_norm, activation=activation),
    head_bias=True,
    classifier=classifier,
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  of = MODEL_TYPES["bert"]
  if transformer.classifier is not None:
    of = _WITH_NEXT_SENTENCE
  options = write_encoder(transformer)
  return {**options, "architectures": [of], "pad_token_id": 0}


def write_encoder(transformer: Transformer) -> dict:
  """Returns the options that the families of encoders share."""
  stack = transformer.encoder
  attention, mlp = stack.layer.attention, stack.layer.mlp
  return {
    "vocab_size": transformer.vocab_size,
    "hidden_size": transformer.width,
    "num_hidden_layers": stack.num_layers,
    "num_attention_heads": attention.num_heads,
    "intermediate_size": mlp.hidden,
    "hidden_act": activations.NAMES[mlp.activation],
    "hidden_dropout_prob": stack.dropout_rate,
    "attention_probs_dropout_prob": attention.dropout_rate,
    "max_position_embeddings": (
      stack.position.max_length + stack.position.offset
    ),
    "type_vocab_size": transformer.num_token_types,
    "layer_norm_eps": stack.input_norm.epsilon,
    "tie_word_embeddings": True,
  }
