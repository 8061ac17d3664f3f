"""RoBERTa: BERT's encoder without next sentences; positions begin later.

Liu et al. 2019, arXiv:1907.11692.
"""

from t5x_lite.interop.config import Config
from t5x_lite.interop.families import bert
from t5x_lite.interop.tables import Entry, Table, dense, norm, under
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"roberta": "RobertaForMaskedLM"}

_OF_TEXTS = "RobertaForSequenceClassification"
_OF_TOKENS = "RobertaForTokenClassification"

TENSORS = Table(
  entries=[
    *under("roberta.", "", bert.ENCODER),
    *under("lm_head.", "", [
      *dense("dense", "head_transform/dense"),
      *norm("layer_norm", "head_transform/norm"),
      Entry("bias", "head_bias"),
    ]),
  ],
  copies={
    "lm_head.decoder.weight": f"roberta.{bert.EMBEDDING}",
    "lm_head.decoder.bias": "lm_head.bias",
  },
  unread=[r"roberta\.embeddings\.position_ids", r"roberta\.pooler\..*"],
)  # fmt: skip


_TEXTS = bert.classes(
  "roberta.",
  *dense("classifier.dense", "classifier/dense"),
  *dense("classifier.out_proj", "classifier/logits"),
)
_TOKENS = bert.classes("roberta.", *dense("classifier", "classifier/logits"))


def tensors(transformer: Transformer) -> Table:
  """Returns the names, which differ where no words are predicted."""
  if transformer.lm_head.transform is not None:
    return TENSORS
  return _TEXTS if transformer.classifier.pool else _TOKENS


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  of = config.architecture(MODEL_TYPES["roberta"], _OF_TEXTS, _OF_TOKENS)
  offset = 1 + config.index("pad_token_id", 1)
  if of in (_OF_TEXTS, _OF_TOKENS):
    classifier = bert.read_classes(config, of_texts=of == _OF_TEXTS)
    return bert.read_encoder(config, offset=offset, classifier=classifier)
  # The head's activation is GELU, whatever the layers have.
  words = bert.read_words(config, activation="gelu")
  return bert.read_encoder(config, offset=offset, **words)


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  pad = transformer.encoder.position.offset - 1
  options = {**bert.write_encoder(transformer), "pad_token_id": pad}
  of, classifier = MODEL_TYPES["roberta"], transformer.classifier
  if transformer.lm_head.transform is None:
    of = _OF_TEXTS if classifier.pool else _OF_TOKENS
    options |= bert.write_classes(classifier)
  return {**options, "architectures": [of]}
