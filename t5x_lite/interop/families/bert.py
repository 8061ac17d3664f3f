"""BERT: an encoder with post-norm, for masked words, sentences and tokens.

Devlin et al. 2019, arXiv:1810.04805. RoBERTa shares its parts (roberta.py).
"""

from t5x_lite.interop.config import ACTIVATIONS, NAMES, Config
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
from t5x_lite.nn.attention_rules import Full
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.heads import Classifier, HeadTransform
from t5x_lite.nn.norms import LayerNorm
from t5x_lite.nn.positions import Learned
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"bert": "BertForMaskedLM"}

_WITH_NEXT_SENTENCE = "BertForPreTraining"
_OF_TEXTS = "BertForSequenceClassification"
_OF_TOKENS = "BertForTokenClassification"

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


def classes(prefix: str, *heads: Entry) -> Table:
  """Returns the names of an encoder below a classifier."""
  return Table(
    entries=[*under(prefix, "", ENCODER), *heads],
    unread=[rf"{prefix}embeddings\.position_ids"],
    renames=_RENAMES,
  )


_RENAMES = [(r"LayerNorm\.gamma$", "LayerNorm.weight"),
            (r"LayerNorm\.beta$", "LayerNorm.bias")]  # fmt: skip

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
  renames=_RENAMES,
)  # fmt: skip
_CLASSES = classes(
  "bert.",
  *dense("bert.pooler.dense", "classifier/dense"),
  *dense("classifier", "classifier/logits"),
)


def tensors(transformer: Transformer) -> Table:
  """Returns the names, which differ where no words are predicted."""
  return _CLASSES if transformer.head_transform is None else TENSORS


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  of = config.architecture(
    MODEL_TYPES["bert"], _WITH_NEXT_SENTENCE, _OF_TEXTS, _OF_TOKENS
  )
  config.without_effect("directionality", *_POOLER)
  if of in (_OF_TEXTS, _OF_TOKENS):
    return read_encoder(
      config, classifier=read_classes(config, of_texts=of == _OF_TEXTS)
    )
  activation = config.choice("hidden_act", ACTIVATIONS, "gelu")
  classifier = None
  if of == _WITH_NEXT_SENTENCE:
    classifier = Classifier(num_classes=2, pool="first", transform="tanh")
  words = read_words(config, activation=activation)
  return read_encoder(config, classifier=classifier, **words)


def read_words(config: Config, *, activation: str) -> dict:
  """Returns the settings of a Transformer that predicts masked words."""
  layer_norm = _layer_norm(config)
  transform = HeadTransform(norm=layer_norm, activation=activation)
  return {"head_transform": transform, "head_bias": True}


def read_classes(config: Config, *, of_texts: bool) -> Classifier:
  """Reads a classifier of texts, or of tokens."""
  dropout = config.number("hidden_dropout_prob", 0.1)
  return Classifier(
    num_classes=config.num_classes(),
    pool="first" if of_texts else None,
    transform="tanh" if of_texts else None,
    dropout_rate=config.number("classifier_dropout", dropout),
  )


def _layer_norm(config):
  return LayerNorm(epsilon=config.number("layer_norm_eps", 1e-12))


def read_encoder(config: Config, *, offset: int = 0, **heads) -> Transformer:
  """Builds an encoder.

  Args:
    config: of the family.
    offset: rows of the position table that no position has.
    **heads: settings of the Transformer.
  """
  config.expect("position_embedding_type", "absolute")
  for name in ("is_decoder", "is_encoder_decoder", "add_cross_attention"):
    config.expect(name, False)
  config.expect("tie_word_embeddings", True)
  layer_norm = _layer_norm(config)
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
      activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
      use_bias=True,
    ),
    norm=layer_norm,
    norm_placement="post",
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
    **heads,
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  options = {**write_encoder(transformer), "pad_token_id": 0}
  classifier = transformer.classifier
  if transformer.head_transform is None:
    of = _OF_TEXTS if classifier.pool else _OF_TOKENS
    options |= write_classes(classifier)
  else:
    of = _WITH_NEXT_SENTENCE if classifier else MODEL_TYPES["bert"]
  return {**options, "architectures": [of]}


def write_classes(classifier: Classifier) -> dict:
  """Returns the options that describe a classifier."""
  labels = {str(i): f"LABEL_{i}" for i in range(classifier.num_classes)}
  return {
    "id2label": labels,
    "label2id": {label: int(i) for i, label in labels.items()},
    "classifier_dropout": classifier.dropout_rate,
  }


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
    "hidden_act": NAMES[mlp.activation],
    "hidden_dropout_prob": stack.dropout_rate,
    "attention_probs_dropout_prob": attention.dropout_rate,
    "max_position_embeddings": (
      stack.position.max_length + stack.position.offset
    ),
    "type_vocab_size": transformer.num_token_types,
    "layer_norm_eps": stack.input_norm.epsilon,
    "tie_word_embeddings": True,
  }
