"""BERT: an encoder with post-norm, for masked words, sentences and tokens.

Devlin et al. 2019, arXiv:1810.04805. RoBERTa shares its parts (roberta.py).
"""

from t5x_lite.interop.config import ACTIVATIONS, Config
from t5x_lite.interop.options import Option, Options
from t5x_lite.interop.tables import (
  FROM_HEADS,
  TO_HEADS,
  Entry,
  Table,
  dense,
  norm,
  under,
)
from t5x_lite.nn.heads import Classifier, HeadTransform
from t5x_lite.nn.norms import LayerNorm
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

ENCODER_OPTIONS = Options(
  rows=[
    Option("vocab_size", "vocab_size"),
    Option("hidden_size", "width"),
    Option("num_hidden_layers", "stack.num_layers"),
    Option("num_attention_heads", "attention.num_heads"),
    Option("intermediate_size", "mlp.hidden"),
    Option("hidden_act", "mlp.activation", "gelu"),
    Option(
      "hidden_dropout_prob", ("stack.dropout_rate", "layer.dropout_rate"), 0.1
    ),
    Option("attention_probs_dropout_prob", "attention.core.dropout_rate", 0.1),
    Option("type_vocab_size", "embedding.num_token_types", 2),
    Option("layer_norm_eps", "norm.epsilon", 1e-12),
  ],
  fixed={
    "attention.projections.use_bias": True, "mlp.use_bias": True,
    "layer.norm_placement": "post", "lm_head.tied": True,
  },
  always={
    "position_embedding_type": "absolute", "is_decoder": False,
    "is_encoder_decoder": False, "add_cross_attention": False,
    "tie_word_embeddings": True,
  },
  side="encoder",
  stack_norms=("input_norm",),
)  # fmt: skip


def tensors(transformer: Transformer) -> Table:
  """Returns the names, which differ where no words are predicted."""
  return _CLASSES if transformer.lm_head.transform is None else TENSORS


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
  of_layers = config.choice("hidden_act", ACTIVATIONS, "gelu")
  classifier = None
  if of == _WITH_NEXT_SENTENCE:
    classifier = Classifier(num_classes=2, pool="first", transform="tanh")
  words = read_words(config, activation=of_layers)
  return read_encoder(config, classifier=classifier, **words)


def read_words(config: Config, *, activation: str) -> dict:
  """Returns the settings of a Transformer that predicts masked words."""
  layer_norm = LayerNorm(epsilon=config.number("layer_norm_eps", 1e-12))
  transform = HeadTransform(norm=layer_norm, activation=activation)
  return {"lm_head.transform": transform, "lm_head.use_bias": True}


def read_classes(config: Config, *, of_texts: bool) -> Classifier:
  """Reads a classifier of texts, or of tokens."""
  dropout = config.number("hidden_dropout_prob", 0.1)
  return Classifier(
    num_classes=config.num_classes(),
    pool="first" if of_texts else None,
    transform="tanh" if of_texts else None,
    dropout_rate=config.number("classifier_dropout", dropout),
  )


def read_encoder(config: Config, *, offset: int = 0, **heads) -> Transformer:
  """Builds an encoder.

  Args:
    config: of the family.
    offset: rows of the position table that no position has.
    **heads: settings of the Transformer.
  """
  max_length = config.integer("max_position_embeddings", 512) - offset
  positions = {"position.max_length": max_length, "position.offset": offset}
  return ENCODER_OPTIONS.transformer(
    ENCODER_OPTIONS.settings(config) | positions | heads
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  options = {**write_encoder(transformer), "pad_token_id": 0}
  classifier = transformer.classifier
  if transformer.lm_head.transform is None:
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
  position = transformer.encoder.position
  return {
    **ENCODER_OPTIONS.write(transformer),
    "max_position_embeddings": position.max_length + position.offset,
    "tie_word_embeddings": True,
  }
