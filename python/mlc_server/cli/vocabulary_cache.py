"""The bytes of a model's tokens, worked out once and kept in the cache folder.

Reading a tokenizer.json for them takes as long as loading a small model's weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path

from mlc_server import _core
from mlc_server.build.sources.cache import write_atomically
from mlc_server.errors import SourceError
from mlc_server.text import vocabulary as source
from mlc_server.text.tools.support import VISIBLE_TOKENS

logger = logging.getLogger(__name__)


def load_vocabulary(path: Path, vocab_size: int, cache_dir: Path) -> _core.Vocabulary:
    """What token_bytes() makes of a tokenizer.json; raises FormatError."""
    kept = cache_dir / "vocabularies" / f"{_key(path, vocab_size)}.bin"
    try:
        found = _core.Vocabulary.parse(kept.read_bytes())
        if len(found) == vocab_size:
            return found
    except (OSError, _core.CoreError):
        pass  # not there yet, or of no use: made anew
    texts, special = source.token_bytes(path, vocab_size, visible=VISIBLE_TOKENS)
    vocabulary = _core.Vocabulary(texts, special)
    try:
        write_atomically(kept, vocabulary.serialize())
    except (OSError, SourceError) as error:
        logger.info("the vocabulary is not kept: %s", error)
    return vocabulary


def _key(path: Path, vocab_size: int) -> str:
    """A name that is the same only for vocabularies that are the same."""
    digest = hashlib.sha256(Path(source.__file__).read_bytes())
    digest.update(f"\0{vocab_size}\0{sorted(VISIBLE_TOKENS)}\0".encode())
    with contextlib.suppress(OSError):  # token_bytes() says what is wrong with it
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]
