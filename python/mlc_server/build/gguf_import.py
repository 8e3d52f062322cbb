"""Opens a GGUF file for conversion."""

from __future__ import annotations

from pathlib import Path

from mlc_server.build.chat_config import SamplingDefaults, TokenizerFacts
from mlc_server.build.gguf_config import read_gguf_config
from mlc_server.build.gguf_file import read_gguf
from mlc_server.build.gguf_weights import GgufWeights
from mlc_server.build.imported import ImportedModel
from mlc_server.build.tokenizer.gguf_tokenizer import write_tokenizer
from mlc_server.build.tokenizer.gguf_vocabulary import read_gguf_vocabulary

KEEP_BLOCKS = "gguf"  # the quantization name that keeps the file's own formats


def open_gguf(path: Path) -> ImportedModel:
    """Reads the header and maps the tensors; raises FormatError."""
    gguf = read_gguf(path)
    config = read_gguf_config(gguf)
    vocabulary = read_gguf_vocabulary(gguf, config.vocab_size)

    def write(folder: Path) -> TokenizerFacts:
        is_spm = vocabulary.model == "llama"
        return TokenizerFacts(
            files=write_tokenizer(vocabulary, folder, config.context_window_size),
            byte_level=not is_spm,
            prepend_space=is_spm and vocabulary.add_space_prefix,
            size=len(vocabulary.tokens),
            bos_id=vocabulary.special_ids.get("bos"),
            eos_ids=vocabulary.end_ids,
            pad_id=vocabulary.special_ids.get("pad"),
        )

    return ImportedModel(
        weights=GgufWeights(gguf, config),
        default_quantization=KEEP_BLOCKS,
        chat_template=vocabulary.chat_template,
        sampling=SamplingDefaults(),
        write_tokenizer=write,
    )
