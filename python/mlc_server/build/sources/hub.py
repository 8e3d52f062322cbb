"""Models in Hugging Face repositories, downloaded only when one is named."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlc_server.build.hf_config import CONFIG
from mlc_server.build.manifest import CHAT_CONFIG
from mlc_server.errors import SourceError

PREFIX = "HF://"
_SPEC = re.compile(
    r"(?:HF://)?(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:#(?P<member>[\w./ -]+\.gguf))?"
)
# JSON and templates are small; pickled weights match none of these.
_SMALL_FILES = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepositorySpec:
    """`[HF://]user/repo[#FILE.gguf]`."""

    repo: str
    member: str | None

    @classmethod
    def parse(cls, text: str) -> RepositorySpec | None:
        """None if `text` is not of that form."""
        match = _SPEC.fullmatch(text)
        return None if match is None else cls(match["repo"], match["member"])


def fetch_repository(spec: RepositorySpec) -> Path:
    """A folder (a GGUF file if one was chosen) in Hugging Face's own cache; raises SourceError."""
    # Takes half a second to import, and most starts need no download.
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415

    try:
        try:
            patterns = choose_files(HfApi().list_repo_files(spec.repo), spec)
        except SourceError:
            raise
        except Exception as error:  # no network: what an earlier download left may do
            logger.info("cannot list %s (%s); looking in the local cache", spec.repo, error)
            folder = Path(snapshot_download(spec.repo, local_files_only=True))
        else:
            folder = Path(snapshot_download(spec.repo, allow_patterns=patterns))
    except SourceError:
        raise
    except Exception as error:  # the client raises errors of several HTTP libraries
        raise SourceError(
            f"repository {spec.repo} cannot be downloaded",
            seen=f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            if str(error).strip()
            else type(error).__name__,
            hint="check the name and the network; for private models set HF_TOKEN; "
            "or give the path of a model on this machine",
        ) from error
    return folder / spec.member if spec.member is not None else folder


def choose_files(names: Sequence[str], spec: RepositorySpec) -> list[str]:
    """Patterns of the files worth downloading; raises SourceError if there is no model."""
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    if spec.member is not None:
        if spec.member in gguf:
            return [spec.member]
    elif CHAT_CONFIG in names:
        return [*_SMALL_FILES, "params_shard_*.bin"]
    elif CONFIG in names and any(name.endswith(".safetensors") for name in names):
        return [*_SMALL_FILES, "*.safetensors"]
    elif len(gguf) == 1:
        return gguf
    hint = f"{spec.repo}#{gguf[0]}" if gguf else "a repository with safetensors, GGUF or MLC files"
    raise SourceError(
        f"repository {spec.repo} holds no single model that can be read",
        seen=", ".join(gguf[:12] or sorted(names)[:12]) or "no files",
        hint=hint,
    )
