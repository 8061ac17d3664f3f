"""RoBERTa: BERT's encoder without next sentences; positions begin later.

Liu et al. 2019, arXiv:1907.11692.
"""

from t5x_lite.interop.config import Config
from t5x_lite.interop.families import bert
from t5x_lite.interop.tables import Entry, Table, dense, norm, under
from t5x_lite.nn.transformer import Transformer

MODEL_TYPES = {"roberta": "RobertaForMaskedLM"}

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


def read(config: Config) -> Transformer:
  """Builds the Transformer that a config.json describes."""
  config.architecture(MODEL_TYPES["roberta"])
  # The head's activation is GELU, whatever the layers have.
  return bert.read_encoder(
    config, activation="gelu", offset=1 + config.index("pad_token_id", 1)
  )


def write(transformer: Transformer) -> dict:
  """Returns the options that describe a Transformer."""
  offset = transformer.encoder.position.offset
  return {**bert.write_encoder(transformer), "pad_token_id": offset - 1}
