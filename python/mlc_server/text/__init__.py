"""Messages to token ids: chat templates, the tokenizer and what ends a turn."""
