"""Where API keys come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlc_server.cli.access import API_KEY_VARIABLE, api_keys, warn_if_open
from mlc_server.errors import UserError
from mlc_server.settings import ServerSettings


def test_keys_of_flags_and_file_come_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    file = tmp_path / "keys"
    file.write_text("c\n\n  a \n")
    assert api_keys([], None) == ()
    assert api_keys(["a", "b"], file) == ("a", "b", "c")
    monkeypatch.setenv(API_KEY_VARIABLE, "env")
    assert api_keys([], None) == ("env",)
    assert api_keys(["a"], None) == ("a",)


@pytest.mark.parametrize("key", ["", "a b", "\xe9", "a\n"])
def test_keys_that_no_header_can_carry_are_refused(key: str) -> None:
    with pytest.raises(UserError) as refused:
        api_keys([key], None)
    assert key == "" or key not in refused.value.render()


def test_an_empty_or_missing_key_file_never_means_no_key(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        with pytest.raises(UserError, match="API key file"):
            api_keys([], tmp_path / name)


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [
        ("0.0.0.0", (), True),
        ("::", (), True),
        ("box.lan", (), True),
        ("0.0.0.0", ("k",), False),
        ("127.0.0.1", (), False),
        ("::1", (), False),
        ("localhost", (), False),
    ],
)
def test_an_open_server_is_warned_of(
    host: str, keys: tuple[str, ...], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_if_open(ServerSettings(host=host, api_keys=keys))
    text = capsys.readouterr().err
    assert text.startswith("warning: ") == warned
    assert text.count("\n") == int(warned)
