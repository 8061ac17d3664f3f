"""Files of text and JSON: read by one reader, written whole or not at all."""
