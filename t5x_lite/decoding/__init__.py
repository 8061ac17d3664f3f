"""Generates token sequences from a model's next-token logits."""

from t5x_lite.decoding import json_schema, stops
from t5x_lite.decoding.assisted import Assisted
from t5x_lite.decoding.beam import Beam
from t5x_lite.decoding.blank_by_blank import BlankByBlank
from t5x_lite.decoding.constraints import Constraints
from t5x_lite.decoding.continuous import generate_continuously
from t5x_lite.decoding.contrastive import Contrastive
from t5x_lite.decoding.drafts import Draft, DraftModel, PromptLookup
from t5x_lite.decoding.easy_first import EasyFirst
from t5x_lite.decoding.loop import GREEDY, UNCONSTRAINED, generate
from t5x_lite.decoding.phrases import Phrases
from t5x_lite.decoding.regex import Regex
from t5x_lite.decoding.repetition import Repetition
from t5x_lite.decoding.request import (
  Acceptance,
  Generated,
  Predictor,
  Sampler,
  Search,
  Strategy,
)
from t5x_lite.decoding.samplers import Greedy, Sample
from t5x_lite.decoding.stops import Stops
from t5x_lite.decoding.trie import Trie
from t5x_lite.nn.caches import Caching

__all__ = [
  "GREEDY", "UNCONSTRAINED", "Acceptance", "Assisted", "Beam", "BlankByBlank",
  "Caching", "Constraints", "Contrastive", "Draft", "DraftModel", "EasyFirst",
  "Generated", "Greedy", "Phrases", "Predictor", "PromptLookup", "Regex",
  "Repetition", "Sample", "Sampler", "Search", "Stops", "Strategy", "Trie",
  "generate", "generate_continuously", "json_schema", "stops",
]  # fmt: skip
