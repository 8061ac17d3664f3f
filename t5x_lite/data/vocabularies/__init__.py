"""Encodes text in plain Python: bytes, SentencePiece and tokenizer.json.

`tasks/` makes seqio vocabularies of these classes; commands that only read and
write text use them as they are. Neither TensorFlow nor JAX is imported.
"""
