"""Builds a Hugging Face tokenizer.json from the vocabulary a GGUF file carries."""
