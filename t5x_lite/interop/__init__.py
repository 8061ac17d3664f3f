"""Brings weights in from other frameworks, and takes them out.

loaded = load_hf("t5-v1_1-small")
loaded.logits({"encoder_input_tokens": ..., "decoder_input_tokens": ...})
save_hf(loaded.model, loaded.params, "copy")
"""

from t5x_lite.interop.huggingface import Loaded as Loaded
from t5x_lite.interop.huggingface import load_hf as load_hf
from t5x_lite.interop.huggingface import save_hf as save_hf
