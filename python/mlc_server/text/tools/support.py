"""What a model's chat template knows of tools, found by looking at it."""

from __future__ import annotations

from dataclasses import dataclass

from mlc_server.errors import UserError

AUTO = "auto"
DEFAULT_FORMAT = "hermes"


@dataclass(frozen=True)
class ToolSupport:
    """`format` is how the model writes calls. A `native` template shows tools, calls and results
    itself; for others they are put into text. `parallel`: it shows several calls of one message;
    for others they are shown one by one."""

    format: str = DEFAULT_FORMAT
    native: bool = False
    parallel: bool = True


def choose_format(source: str, *, native: bool, wanted: str = AUTO) -> str:
    """The format a template asks its model for, or the `wanted` one.

    Templates that know no tools get ours, which is Hermes's: raises UserError for another one.
    """
    if wanted != AUTO and not native and wanted != DEFAULT_FORMAT:
        raise UserError(
            f"--tool-call-parser {wanted} does not fit this model",
            seen="a chat template that shows the model no tools",
            hint="leave the flag out, or give a template with tools by --chat-template FILE",
        )
    if wanted != AUTO:
        return wanted
    return _format_of(source) if native else DEFAULT_FORMAT


def _format_of(source: str) -> str:
    if "<tool_call>" in source:
        return "hermes"
    if "[TOOL_CALLS]" in source:
        return "mistral"
    if "[func_name1(" in source:
        return "pythonic"
    if "<|python_tag|>" in source or '"parameters"' in source:
        return "llama3_json"
    return DEFAULT_FORMAT


# Special tokens that begin or divide calls. Engines drop special tokens from the text; these stay.
VISIBLE_TOKENS = frozenset({"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]"})
