"""The Hugging Face tokenizer of a model folder: text to ids, and which ids are special."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer

from mlc_server.errors import FormatError

# No vocabulary has a token that begins with it and goes on.
_NEVER_MERGED = "\u263a"
# Characters counted at a time in a text that may be too long.
_PIECE = 1 << 14


class TooManyTokens(Exception):
    """A text has at least `count` tokens, more than were asked for."""

    def __init__(self, count: int) -> None:
        super().__init__(f"at least {count} tokens")
        self.count = count


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

    def encode(
        self, text: str, *, add_special_tokens: bool = False, most: int | None = None
    ) -> list[int]:
        """Ids of `text`, alone by default: a chat template writes special tokens itself.

        Raises TooManyTokens for a long text that has clearly more than `most`; a few more are
        returned. Runs without the GIL, so a worker thread leaves the event loop free.
        """
        if most is not None and len(text) > _PIECE:
            self._check_length(text, most)
        encodings = self._inner.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return list(encodings[0].ids)

    def _check_length(self, text: str, most: int) -> None:
        """Raises TooManyTokens once the text's pieces have a quarter more than `most`.

        An encoding takes some 400 bytes a token while it is made: too much for megabytes of text
        that would be refused in the end. Cutting a text moves only the tokens about the cut.
        """
        count = 0
        for start in range(0, len(text), _PIECE):
            piece = text[start : start + _PIECE]
            count += len(self._inner.encode_batch_fast([piece], add_special_tokens=False)[0])
            if count > most + most // 4 + _PIECE // 16:
                raise TooManyTokens(count)

    def encode_with_starts(
        self, text: str, *, add_special_tokens: bool = False
    ) -> tuple[list[int], list[int]]:
        """The ids of encode(), and where in the text each begins: a token within a character where
        that does, one that the tokenizer adds itself where the text is by then."""
        encodings = self._inner.encode_batch([text], add_special_tokens=add_special_tokens)
        starts, latest = [], 0
        for (start, end), mask in zip(
            encodings[0].offsets, encodings[0].special_tokens_mask, strict=True
        ):
            starts.append(latest if mask and end == 0 else start)
            latest = end if end else latest
        return list(encodings[0].ids), starts

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens as they are written. Unknown ids are skipped."""
        text: str = self._inner.decode(list(token_ids), skip_special_tokens=False)
        return text

    def written(self, token_id: int) -> str | None:
        """A token as the tokenizer's file writes it, None for an unknown id."""
        token: str | None = self._inner.id_to_token(token_id)
        return token

    def id_of(self, token: str) -> int | None:
        """Id of a token given as the tokenizer's file writes it, None if there is none."""
        token_id: int | None = self._inner.token_to_id(token)
        return token_id

    def encode_inside(self, text: str, *, most: int | None = None) -> list[int]:
        """Ids of text that something comes before: no space is put before its first word."""
        mark = self.encode(_NEVER_MERGED)
        ids = self.encode(_NEVER_MERGED + text, most=most)
        if not self.strips_leading_space or ids[: len(mark)] != mark:
            return self.encode(text)
        return ids[len(mark) :]

    @property
    def first_ids(self) -> list[int]:
        """The special tokens that it puts before a text, such as BOS."""
        plain, whole = self.encode("a"), self.encode("a", add_special_tokens=True)
        starts = range(len(whole) - len(plain) + 1)
        start = next((i for i in starts if whole[i : i + len(plain)] == plain), 0)
        return whole[:start]

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
