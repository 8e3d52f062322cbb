"""Which texts a grammar allows, by llguidance itself on a vocabulary of bytes."""

from __future__ import annotations

import llguidance


def allows(grammar: str | None, text: str) -> bool:
    """Whether `text` can be written and the answer can end there."""
    assert grammar is not None
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    matcher.consume_tokens(tokens)
    return bool(matcher.is_accepting())
