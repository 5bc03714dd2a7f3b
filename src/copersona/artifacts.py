"""Immutable, versioned folders of arrays, published whole or not at all.

A version is written to a temporary folder beside its final place, flushed to the disk, renamed, and
only then named by the pointer file `current`; a process that is killed at any point leaves the
previous version in force. A version is never changed afterwards, so readers map its files into
memory and share them between processes. Its id ends in a hash of its manifest, and the manifest
holds a hash of every file, so a damaged byte anywhere is refused with the file's name.

    root/<namespace, made safe>/current                      the version id that is in force
                               /000012-1f0c9a3e/manifest.json
                                               /<group>.safetensors

Locks are the kernel's advisory file locks, which end with their process: nothing is ever left
locked, and what a dead process left behind can be told from what is being written.

This module does not know what the arrays mean, and has no opinion on when to publish.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from copersona.errors import ArtifactError, ConfigError

FORMAT_VERSION = 2
DEFAULT_GROUP = "arrays"

Array = NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_MANIFEST = "manifest.json"
_CURRENT = "current"
_LOCK = ".lock"
_PUBLISHING = ".publishing"
_TRAINING = ".training"
_LOCKS = (_LOCK, _PUBLISHING, _TRAINING)
_STAGING_PREFIX = ".staging-"
_VERSION = re.compile(r"(\d{6,})-([0-9a-f]{8})")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One opened version.

    Attributes:
        meta: what the publisher said about the arrays.
        arrays: read-only views on memory-mapped files; they stay valid after `remove`.
    """

    version: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, Array]


def publish(
    root: Path,
    namespace: str,
    arrays: Mapping[str, Array],
    meta: Mapping[str, Any],
    *,
    groups: Mapping[str, str] | None = None,
) -> str:
    """Write a new version, make it current, and return its id.

    When this returns, the version survives a power cut. Ids sort in the order of publishing
    (`versions` sorts them), and equal content has an equal second half.

    Args:
        root: folder of all namespaces; made, private, if it is not there.
        namespace: any text; different texts never share a folder.
        arrays: float16, float32, int32, int64, uint8 or bool, of any shape.
        meta: anything JSON can hold.
        groups: array name -> file it goes to; arrays not named share one file.

    Raises:
        ArtifactError: an array or `meta` cannot be stored, or the disk refused it. Nothing is
            published then, and `current` is what it was.
    """
    by_file = _by_file(arrays, groups or {})
    text = _as_json(meta)
    try:
        home = _make_home(root, namespace)
        with staging(home) as folder:
            files = {name: _write_arrays(folder / name, group) for name, group in by_file.items()}
            manifest = {
                "format_version": FORMAT_VERSION,
                "namespace": namespace,
                "files": files,
                "meta": json.loads(text),
            }
            digest = _write_manifest(folder / _MANIFEST, manifest)
            sync_folder(folder)
            return _put_in_force(home, folder, digest)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"could not publish to {namespace!r} in {root}: {error}") from error


def open_version(
    root: Path, namespace: str, version: str | None = None, *, verify: bool = True
) -> Artifact:
    """Open one version, or the current one, with its arrays mapped into memory.

    Args:
        root: as given to `publish`.
        namespace: as given to `publish`.
        version: an id from `versions`; None means the one in force.
        verify: also read every file once and compare its hash. Sizes are always compared.

    Raises:
        ArtifactError: nothing published, or the version is missing, damaged, of another namespace
            or of another format; says which file and why. A caller that holds an earlier version
            may go on serving it.
    """
    chosen = version if version is not None else current(root, namespace)
    if chosen is None:
        raise ArtifactError(f"nothing has been published for namespace {namespace!r} in {root}")
    folder = _version_folder(_home(root, namespace), chosen)
    try:
        manifest = _read_manifest(folder, namespace)
        check_files(folder, manifest["files"], verify=verify)
        arrays: dict[str, Array] = {}
        for name in manifest["files"]:
            arrays.update(_map_arrays(folder / name))
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be read: {error}") from error
    return Artifact(chosen, manifest["meta"], arrays)


def versions(root: Path, namespace: str) -> list[str]:
    """Return the ids of all published versions, oldest first."""
    home = _home(root, namespace)
    if not home.is_dir():
        return []
    found = [match for path in home.iterdir() if (match := _VERSION.fullmatch(path.name))]
    found.sort(key=lambda match: (int(match[1]), match[2]))
    return [match[0] for match in found]


def current(root: Path, namespace: str) -> str | None:
    """Return the id of the version in force, or None; reads one small file, so poll it freely."""
    path = _home(root, namespace) / _CURRENT
    try:
        version = path.read_text("ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error
    if not _VERSION.fullmatch(version):
        raise ArtifactError(f"{path}: does not hold a version id; publish again")
    return version


def remove(root: Path, namespace: str, version: str) -> None:
    """Delete one version and whatever dead processes left; a missing version is no error.

    Processes that have it open keep their arrays. Removing the current version leaves none current.
    """
    home = _home(root, namespace)
    folder = _version_folder(home, version)
    if not home.is_dir():
        return
    with locked(home):
        if _pointed_at(home) == version:
            (home / _CURRENT).unlink()
            sync_folder(home)
        if folder.is_dir():
            folder.rename(Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=home)) / version)
        _remove_abandoned(home)
        sync_folder(home)


def prune(root: Path, namespace: str, keep: int = 2) -> list[str]:
    """Delete all but the newest `keep` versions and the current one; return what was deleted."""
    if keep < 1:
        raise ConfigError(f"keep is {keep}: at least one version must be kept")
    in_force = current(root, namespace)
    old = [version for version in versions(root, namespace)[:-keep] if version != in_force]
    for version in old:
        remove(root, namespace, version)
    return old


@contextmanager
def replacing(root: Path, namespace: str) -> Iterator[None]:
    """Keep other processes and threads from replacing what is in force; waits its turn.

    For whoever publishes what was made of the version in force: only inside is it sure that nobody
    publishes in between. Ends with its process; must not be entered twice.
    """
    with replacing_in(_make_home(root, namespace)):
        yield


@contextmanager
def replacing_in(home: Path) -> Iterator[None]:
    """`replacing`, for one of `homes`."""
    with locked(home, _PUBLISHING):
        yield


@contextmanager
def training(root: Path, namespace: str, *, is_patient: bool = True) -> Iterator[None]:
    """Keep others from training in the same namespace; what is in force may be replaced.

    Raises:
        BlockingIOError: not `is_patient`, and somebody else is training.
    """
    with locked(_make_home(root, namespace), _TRAINING, is_patient=is_patient):
        yield


def homes(root: Path) -> list[Path]:
    """The folders of all namespaces."""
    return sorted({path.parent for path in root.glob("*/.*") if path.name in _LOCKS})


def copy_home(home: Path, target: Path) -> None:
    """Copy what is published in a namespace; call inside `replacing_in`."""
    shutil.copytree(home, target, ignore=shutil.ignore_patterns(".*"))


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """Yield a private folder on the disk of `parent`, to be filled and then renamed to its place.

    It is deleted afterwards if it was not renamed. What killed processes left is deleted first.
    """
    with locked(parent):
        _remove_abandoned(parent)
        outer = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=parent))
        lock = _open_lock(outer)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        folder = outer / "content"
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(outer, ignore_errors=True)
        os.close(lock)


@contextmanager
def locked(folder: Path, name: str = _LOCK, *, is_patient: bool = True) -> Iterator[None]:
    """Keep other processes and threads out of this folder's `locked` blocks; waits its turn."""
    lock = _open_lock(folder, name)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if is_patient else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def describe_file(path: Path) -> dict[str, Any]:
    """Make a file private, flush it to the disk, and return its size and hash for a manifest."""
    path.chmod(0o600)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], *, verify: bool) -> None:
    """Compare files with what a manifest says of them.

    Raises:
        ArtifactError: a file is missing, of another size or, if `verify`, of another content.
    """
    for name, said in files.items():
        path = folder / name
        if not _FILE_NAME.fullmatch(name) or not path.is_file():
            raise ArtifactError(f"{path}: missing")
        size = path.stat().st_size
        if size != said["size"]:
            raise ArtifactError(f"{path}: damaged: {size} bytes instead of {said['size']}")
        if verify and sha256_of(path) != said["sha256"]:
            raise ArtifactError(f"{path}: damaged: its content has another hash than the manifest")


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- places ---------------------------------------------------------------------------------------


def _home(root: Path, namespace: str) -> Path:
    readable = re.sub(r"[^A-Za-z0-9]+", "_", namespace)[:32].strip("_")
    digest = hashlib.sha256(namespace.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return root / f"{readable or 'namespace'}-{digest}"


def _make_home(root: Path, namespace: str) -> Path:
    home = _home(root, namespace)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.mkdir(mode=0o700, exist_ok=True)
    sync_folder(root)
    return home


def _version_folder(home: Path, version: str) -> Path:
    if not _VERSION.fullmatch(version):
        raise ArtifactError(f"{version!r} is not a version id; they look like 000012-1f0c9a3e")
    return home / version


def _pointed_at(home: Path) -> str | None:
    path = home / _CURRENT
    return path.read_text("ascii", errors="replace").strip() if path.is_file() else None


def _open_lock(folder: Path, name: str = _LOCK) -> int:
    return os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)


def _remove_abandoned(parent: Path) -> None:
    """Delete staging folders that no living process holds; call with `parent` locked."""
    for path in parent.glob(f"{_STAGING_PREFIX}*"):
        try:
            lock = _open_lock(path)
        except FileNotFoundError:  # its owner has just finished
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


# -- writing --------------------------------------------------------------------------------------


def _by_file(arrays: Mapping[str, Array], groups: Mapping[str, str]) -> dict[str, dict[str, Array]]:
    unknown = sorted(groups.keys() - arrays.keys())
    if unknown:
        raise ArtifactError(f"groups name arrays that are not there: {', '.join(unknown)}")
    by_file: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        group = groups.get(name, DEFAULT_GROUP)
        if not _FILE_NAME.fullmatch(group):
            raise ArtifactError(f"group {group!r} cannot be a file name")
        by_file.setdefault(f"{group}.safetensors", {})[name] = _storable(name, array)
    return by_file


def _storable(name: str, array: Array) -> Array:
    little = array.dtype.newbyteorder("<")
    if little not in _DTYPES.values():
        known = ", ".join(dtype.name for dtype in _DTYPES.values())
        raise ArtifactError(f"array {name!r} is {array.dtype}; store one of {known}")
    return np.asarray(array, dtype=little, order="C")


def _as_json(meta: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(meta), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"meta cannot be written as JSON: {error}") from error


def _write_arrays(path: Path, arrays: dict[str, Array]) -> dict[str, Any]:
    save_file(arrays, path)
    return describe_file(path)


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> str:
    path.write_text(json.dumps(manifest, sort_keys=True, indent=1), "utf-8")
    digest: str = describe_file(path)["sha256"]
    return digest


def _put_in_force(home: Path, folder: Path, digest: str) -> str:
    with locked(home):
        newest = max((int(path.name.split("-")[0]) for path in _published(home)), default=0)
        version = f"{newest + 1:06d}-{digest[:8]}"
        folder.rename(home / version)
        sync_folder(home)
        _point_at(home, version)
    return version


def _published(home: Path) -> Iterator[Path]:
    return (path for path in home.iterdir() if _VERSION.fullmatch(path.name))


def _point_at(home: Path, version: str) -> None:
    fresh = home / f"{_CURRENT}.new"
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(version + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(home / _CURRENT)
    sync_folder(home)


# -- reading --------------------------------------------------------------------------------------


def _read_manifest(folder: Path, namespace: str) -> dict[str, Any]:
    path = folder / _MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{path}: missing; the version was removed or never published")
    content = path.read_bytes()
    try:
        manifest = json.loads(content)
        found = manifest["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: damaged: not a manifest ({error})") from error
    if found != FORMAT_VERSION:
        age = "a newer" if isinstance(found, int) and found > FORMAT_VERSION else "an older"
        raise ArtifactError(
            f"{path}: {age} format ({found!r}); this program reads {FORMAT_VERSION}: fit again"
        )
    if hashlib.sha256(content).hexdigest()[:8] != folder.name[-8:]:
        raise ArtifactError(f"{path}: damaged: its content does not match the version id")
    if manifest["namespace"] != namespace:
        raise ArtifactError(f"{path}: belongs to another namespace than {namespace!r}")
    return dict(manifest)


def _map_arrays(path: Path) -> dict[str, Array]:
    raw = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    try:
        header_end = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8:header_end].tobytes())
        header.pop("__metadata__", None)
        data = raw[header_end:]
        return {name: _view(data, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: damaged: not a safetensors file ({error})") from error


def _view(data: Array, entry: Mapping[str, Any]) -> Array:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= len(data) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array does not lie within the file")
    return data[begin:end].view(dtype).reshape(shape)
