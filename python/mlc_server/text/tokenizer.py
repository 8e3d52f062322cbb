"""The Hugging Face tokenizer of a model folder: text to ids, and which ids are special."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer

from mlc_server.errors import FormatError


class Tokenizer:
    """Encodes rendered prompts. Safe to use from several threads."""

    def __init__(self, inner: HfTokenizer) -> None:
        # Prompts are never cut or padded behind the client's back.
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._special_ids = frozenset(
            token_id
            for token_id, token in inner.get_added_tokens_decoder().items()
            if token.special
        )

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Reads tokenizer.json; raises FormatError."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise FormatError(
                f"{folder} has no tokenizer.json",
                seen=", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing",
                hint="copy tokenizer.json from the original model into the folder",
            )
        try:
            return cls(HfTokenizer.from_file(str(path)))
        except Exception as error:  # tokenizers raises plain Exception for every kind of failure
            raise FormatError(
                f"{path} is not a tokenizer that can be read",
                seen=str(error)[:200],
                hint="copy tokenizer.json from the original model again",
            ) from error

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: a chat template writes special tokens itself.

        Runs without the GIL, so a worker thread leaves the event loop free.
        """
        encodings = self._inner.encode_batch_fast([text], add_special_tokens=False)
        return list(encodings[0].ids)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def special_id(self, token: str) -> int | None:
        """Id of a special token given by its text, None if there is none."""
        token_id = self._inner.token_to_id(token)
        return token_id if token_id in self._special_ids else None

    @property
    def strips_leading_space(self) -> bool:
        """Whether decoding drops the space that sentencepiece puts before a text's first word."""
        token_id = self._inner.token_to_id("\u2581a")
        return token_id is not None and self._inner.decode([token_id]) == "a"
