"""The command line: every flag of the API's description, and three lines for every mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mlc_server import limits
from mlc_server.cli import main as main_module
from mlc_server.cli import serve
from mlc_server.cli.arguments import Parser
from mlc_server.cli.main import main
from mlc_server.errors import UserError
from mlc_server.settings import CorsSettings, ServerSettings


def settings(*argv: str) -> ServerSettings:
    root = Parser(prog="mlc_server")
    serve.add_parser(root.add_subparsers(dest="command", parser_class=Parser))
    return serve.settings_from(root.parse_args(["serve", *argv]))


def three_lines(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    """Runs the command line; asserts exit code 2 and three lines on stderr, nothing else."""
    assert main(list(argv)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "seen", "try"], output.err
    return lines


def test_defaults_are_those_of_limits_and_of_the_description() -> None:
    defaults = settings()
    assert (defaults.host, defaults.port, defaults.device) == ("127.0.0.1", 8000, "cpu")
    assert defaults.cors == CorsSettings(False, ("*",), ("*",), ("*",))
    assert not defaults.enable_tracing
    for limit in (
        limits.THREADS,
        limits.MAX_BATCH_SIZE,
        limits.MAX_TOTAL_SEQ_LENGTH,
        limits.PREFILL_CHUNK_SIZE,
        limits.CONTEXT_WINDOW_SIZE,
        limits.MAX_QUEUE_SIZE,
        limits.DRAFT_TOKENS_MAX,
    ):
        assert getattr(defaults, limit.name) == limit.default
    assert defaults.max_body_size == limits.MAX_BODY_BYTES.default


def test_the_readme_names_every_flag() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    parser = serve.add_parser(Parser(prog="mlc_server").add_subparsers(parser_class=Parser))
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert len(flags) > 30
    for flag in flags - {"-h", "--help"}:
        assert re.search(rf"`{flag}[ `]", readme), flag


def test_tool_flags() -> None:
    assert (settings().tool_call_parser, settings().tool_call_style) == ("auto", "openai")
    for parser in ("auto", "hermes", "llama3_json", "mistral", "pythonic"):
        assert settings("--tool-call-parser", parser).tool_call_parser == parser
    assert settings("--tool-call-style", "mlc").tool_call_style == "mlc"
    for argv in (("--tool-call-parser", "qwen"), ("--tool-call-style", "vllm")):
        with pytest.raises(UserError):
            settings(*argv)


def test_every_documented_flag_is_accepted(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.touch()
    chosen = settings(
        *("MODEL", "--model-lib", str(library), "--device", "cpu:0"),
        *("--max-batch-size", "7", "--max-total-seq-length", "None"),
        *("--prefill-chunk-size", "99", "--enable-tracing"),
        *("--host", "0.0.0.0", "--port", "1", "--allow-credentials"),
        *("--allowed-origins", '["http://a"]', "--allowed-methods", '["GET"]'),
        *("--allowed-headers", "[]"),
    )
    assert chosen.model == "MODEL"
    assert chosen.model_lib == library
    assert chosen.max_batch_size == 7
    assert chosen.max_total_seq_length == 0
    assert chosen.prefill_chunk_size == 99
    assert chosen.enable_tracing
    assert (chosen.host, chosen.port) == ("0.0.0.0", 1)
    assert chosen.cors == CorsSettings(True, ("http://a",), ("GET",), ())


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--model", "m"], "model", "m"),
        (["--allow-origins", '["x"]'], "cors", CorsSettings(allowed_origins=("x",))),
        (["--max-num-seqs", "3"], "max_batch_size", 3),
        (["--max-num-batched-tokens", "64"], "prefill_chunk_size", 64),
        (["--max-model-len", "512"], "context_window_size", 512),
        (["--max-total-seq-length", "4096"], "max_total_seq_length", 4096),
        (["--threads", "2"], "threads", 2),
        (["--speculative-mode", "ngram"], "speculative_mode", "ngram"),
        (["--spec-draft-length", "2"], "draft_tokens_max", 2),
        (["--threads", "auto"], "threads", 0),
        (["--served-model-name", "x"], "served_model_names", ("x",)),
        (["--served-model-name=x", "--served-model-name=y"], "served_model_names", ("x", "y")),
        (["--api-key", "k", "--api-key", "l"], "api_keys", ("k", "l")),
        (["--allowed-hosts", "a", "b", "--port", "1"], "allowed_hosts", ("a", "b")),
        (["--stream-ping-interval", "15"], "stream_ping_interval_s", 15),
        (["--log-json"], "log_json", True),
        (["--enable-debug"], "enable_debug", True),
        (["--allow-any-model"], "allow_any_model", True),
        (["--chat-template", "mlc"], "chat_template", "mlc"),
        (["--max-body-size", "10M"], "max_body_size", 10 << 20),
        (["--max-body-size", "64KiB"], "max_body_size", 64 << 10),
        (["--shutdown-timeout", "0"], "shutdown_timeout_s", 0),
        (["--cache-dir", "/x"], "cache_dir", Path("/x")),
    ],
)
def test_other_flags(argv: list[str], field: str, value: Any) -> None:
    assert getattr(settings(*argv), field) == value


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--prot", "9"], "did you mean --port?"),
        (["serve", "--max-batch-sise=4"], "did you mean --max-batch-size?"),
        (["--max-batch"], "--max-batch-size"),
        (["--port", "70000"], "must be a whole number 0 to 65535, not 70000"),
        (["--port", "http"], "must be a whole number 0 to 65535, not http"),
        (["--max-batch-size", "0"], "must be a whole number 1 to 4096, not 0"),
        (["--max-total-seq-length", "-1"], "--max-total-seq-length"),
        (["--allowed-origins", "*"], 'must be a JSON list of strings such as ["*"], not *'),
        (["--allowed-headers", "[1]"], "JSON list of strings"),
        (["--max-body-size", "lots"], "must be a size such as 4MiB"),
        (["--log-level", "loud"], "invalid choice"),
        (["--device", "cuda:0"], "device cuda is not available"),
        (["--device", "cpi"], "did you mean cpu?"),
        (["--device", "abacus"], "device abacus is unknown"),
        (["--device", "cpu:1"], "this machine has cpu:0"),
        (["a", "b"], "unexpected argument b"),
        (["a", "--model", "b"], "two models given"),
        (["serv"], "did you mean serve?"),
        (["docter"], "did you mean doctor?"),
        (["doctor", "--prt", "1"], "did you mean --port?"),
    ],
)
def test_mistakes_are_three_lines(
    capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert said in "\n".join(three_lines(capsys, *argv))


def test_a_missing_model_lists_what_is_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "other.gguf").touch()
    lines = three_lines(capsys, str(tmp_path / "model.gguf"))
    assert "does not exist" in lines[0]
    assert "other.gguf" in lines[1]
    lines = three_lines(capsys, "--model-lib", str(tmp_path / "lib.so"))
    assert "other.gguf" in lines[1]


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(UserError):
        main(["--device", "abacus", "--debug"])


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mlc_server ")
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name in main_module.COMMANDS:
        assert name in overview
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--model-lib", "--enable-tracing", "--allowed-origins", "--threads"):
        assert flag in text


@pytest.mark.parametrize("name", main_module.COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    for spelling in {name, name.replace("_", "-")}:
        with pytest.raises(SystemExit) as ended:
            main([spelling, "--help"])
        assert ended.value.code == 0
        assert name in capsys.readouterr().out
