"""`python -m support.fake_server`: the real command line and server over the core's FakeRunner.

Everything is what `mlc_server serve` runs, except that no model is found, compiled or loaded.
Environment: FAKE_STEP_NS, FAKE_THROW_AT_STEP, FAKE_LOAD_S, FAKE_LOAD_FAILS.
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

from mlc_server import _core
from mlc_server.api.service import model_names
from mlc_server.cli import loading
from mlc_server.cli.launch import LoadedModel
from mlc_server.cli.main import run
from mlc_server.cli.memory import KvPlan
from mlc_server.cli.phases import Phases
from mlc_server.cli.warm_up import warm_up
from mlc_server.engine import GrammarCompiler
from mlc_server.engine.grammar import llguidance_library
from mlc_server.engine.grammar_probe import GrammarProbe
from mlc_server.errors import FormatError
from mlc_server.settings import ServerSettings
from support.byte_model import EOS_ID, IS_SPECIAL, TOKEN_BYTES, VOCAB_SIZE, byte_prompts

PAGE_SIZE = 16
NUM_PAGES = 2048


def new_probe(library: Path | None = None) -> GrammarProbe:
    """For the vocabulary of fake_core(); the process is the caller's to end."""
    vocabulary = _core.Vocabulary(TOKEN_BYTES, IS_SPECIAL)
    return GrammarProbe(library or llguidance_library(), vocabulary, [EOS_ID], VOCAB_SIZE)


@functools.cache
def fake_probe() -> GrammarProbe:
    """One process for all tests."""
    return new_probe()


def fake_grammars(probe: GrammarProbe | None = None) -> GrammarCompiler:
    """For the vocabulary of fake_core()."""
    vocabulary = _core.Vocabulary(TOKEN_BYTES, IS_SPECIAL)
    return GrammarCompiler(vocabulary, [EOS_ID], VOCAB_SIZE, probe or fake_probe())


def fake_core(**runner_options: Any) -> _core.Engine:
    """A core engine over a FakeRunner whose tokens are bytes."""
    runner = _core.FakeRunner(vocab_size=VOCAB_SIZE, page_size=PAGE_SIZE, **runner_options)
    config = _core.EngineConfig(
        max_batch_size=64,
        prefill_chunk_size=256,
        max_sequence_length=4096,
        page_size=PAGE_SIZE,
        num_pages=NUM_PAGES,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=[256],
    )
    return _core.Engine(runner, _core.Vocabulary(TOKEN_BYTES, IS_SPECIAL), config)


def load_model(settings: ServerSettings, phases: Phases) -> LoadedModel:
    """Stands in for cli.launch.load_model."""
    grammars = fake_grammars()
    grammars.warm_up()  # still at it when loading fails, as the real one may be
    with phases.phase("fake model"):
        time.sleep(float(os.environ.get("FAKE_LOAD_S", "0")))
        if os.environ.get("FAKE_LOAD_FAILS"):
            raise FormatError("the model is broken", seen="nothing good", hint="another one")
    core = fake_core(
        step_ns=int(os.environ.get("FAKE_STEP_NS", "0")),
        throw_at_step=int(os.environ.get("FAKE_THROW_AT_STEP", "-1")),
    )
    prompts = byte_prompts()
    with phases.phase("warm up") as phase:
        phase.note = warm_up(core, prompts, settings.max_queue_size)
    return LoadedModel(
        core=core,
        prompts=prompts,
        token_bytes=TOKEN_BYTES,
        hidden_ids=frozenset([EOS_ID]),
        kv=KvPlan(NUM_PAGES, PAGE_SIZE, 1024, 4096),
        id="fake",
        names=model_names("fake"),
        system_fingerprint="fp_fake",
        grammars=grammars,
    )


if __name__ == "__main__":
    loading.load_model = load_model
    run()
