"""Sentencepiece BPE: the merges that its scores stand for."""

from __future__ import annotations

from mlc_server.build.tokenizer.gguf_vocabulary import GgufVocabulary, TokenType


def merges_from_scores(vocabulary: GgufVocabulary) -> list[tuple[str, str]]:
    """Every split of a piece into two pieces, best score first.

    Sentencepiece joins, again and again, the neighbours whose joint piece scores highest, leftmost
    first; BPE joins the pair of lowest rank, leftmost first. Ranking pairs by the score of their
    joint piece makes the two the same.
    """
    ids = {
        token: token_id
        for token_id, token in enumerate(vocabulary.tokens)
        if vocabulary.types[token_id] is TokenType.NORMAL
    }
    ranked: list[tuple[float, int, int, int]] = []
    for token, token_id in ids.items():
        score = vocabulary.scores[token_id]
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                ranked.append((-score, token_id, left, right))
    ranked.sort()
    return [(vocabulary.tokens[left], vocabulary.tokens[right]) for _, _, left, right in ranked]
