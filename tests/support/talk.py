"""The default model behind an engine with grammars, and requests for it."""

from __future__ import annotations

from typing import Any

from mlc_server import _core
from mlc_server.engine import (
    GenerationRequest,
    GrammarCompiler,
    GrammarSpec,
    SamplingOptions,
)
from mlc_server.text.prompt import PromptBuilder
from mlc_server.text.vocabulary import token_bytes
from support.default_model import DefaultModel

MAX_TOKENS = 400


class Talk:
    """The default model behind an engine with grammars."""

    def __init__(self, model: DefaultModel) -> None:
        folder = model.manifest.folder
        self.prompts = PromptBuilder.from_folder(folder, model.manifest.chat_config)
        runner = model.runner()
        size = runner.info.vocab_size
        vocabulary = _core.Vocabulary(*token_bytes(folder / "tokenizer.json", size))
        eos = [token_id for token_id in self.prompts.stop.token_ids if token_id < size]
        config = _core.EngineConfig(
            num_pages=2048, max_sequence_length=2048, vocab_size=size, eos_token_ids=eos
        )
        self.core = _core.Engine(runner, vocabulary, config)
        self.grammars = GrammarCompiler(vocabulary, eos, size)

    def request(self, text: str, spec: GrammarSpec, **options: Any) -> GenerationRequest:
        return GenerationRequest(
            self.prompts.build([{"role": "user", "content": text}]),
            SamplingOptions(**{"max_tokens": MAX_TOKENS, **options}),
            grammar=spec,
        )
