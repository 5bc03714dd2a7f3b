"""Artifacts: what is published comes back bit for bit, and whatever is not whole is refused."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from copersona import artifacts
from copersona.errors import ArtifactError, ConfigError

ARRAYS = {
    "means": np.arange(12, dtype=np.float32).reshape(3, 4),
    "halves": np.linspace(0, 1, 5).astype(np.float16),
    "links": np.array([[0, 2], [1, 5]], dtype=np.int64),
    "rows": np.array([7, -7], dtype=np.int32),
    "text": np.frombuffer(b"three", dtype=np.uint8),
    "mask": np.array([True, False, True]),
    "nobody": np.zeros((0, 4), dtype=np.float32),
    "scalar": np.array(3.5, dtype=np.float32),
}


def home_of(root: Path, namespace: str) -> Path:
    version = artifacts.publish(root, namespace, {"x": np.zeros(2, np.float32)}, {})
    return next(path.parent for path in root.glob(f"*/{version}"))


def test_arrays_and_meta_come_back_as_they_were(tmp_path: Path) -> None:
    meta = {"n_facets": 8, "names": ["tea", "röd"], "none": None}
    version = artifacts.publish(tmp_path, "shop", ARRAYS, meta, groups={"links": "layers"})
    opened = artifacts.open_version(tmp_path, "shop")
    assert opened.version == version == artifacts.current(tmp_path, "shop")
    assert opened.meta == meta
    assert opened.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert opened.arrays[name].dtype == array.dtype
        assert opened.arrays[name].shape == array.shape
        np.testing.assert_array_equal(opened.arrays[name], array)


def test_groups_decide_the_files_and_the_library_reads_them(tmp_path: Path) -> None:
    version = artifacts.publish(tmp_path, "shop", ARRAYS, {}, groups={"links": "layers"})
    folder = next(tmp_path.glob(f"*/{version}"))
    names = {path.name for path in folder.iterdir()}
    assert names == {"manifest.json", "arrays.safetensors", "layers.safetensors"}
    assert load_file(folder / "layers.safetensors").keys() == {"links"}


def test_arrays_are_mapped_and_read_only(tmp_path: Path) -> None:
    artifacts.publish(tmp_path, "shop", ARRAYS, {})
    means = artifacts.open_version(tmp_path, "shop").arrays["means"]
    base = means
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        means[0, 0] = 1


def test_any_memory_layout_is_stored_in_order(tmp_path: Path) -> None:
    square = np.arange(16, dtype=np.float32).reshape(4, 4)
    odd = {"turned": square.T, "strided": square[::2, ::2], "big": square.astype(">f4")}
    artifacts.publish(tmp_path, "shop", odd, {})
    opened = artifacts.open_version(tmp_path, "shop")
    for name, array in odd.items():
        np.testing.assert_array_equal(opened.arrays[name], array)


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    root = tmp_path / "state"
    artifacts.publish(root, "shop", ARRAYS, {})
    for path in [root, *root.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_versions_are_ordered_and_the_last_is_current(tmp_path: Path) -> None:
    made = [artifacts.publish(tmp_path, "shop", ARRAYS, {"round": i}) for i in range(3)]
    assert artifacts.versions(tmp_path, "shop") == made == sorted(made)
    assert artifacts.current(tmp_path, "shop") == made[-1]
    assert artifacts.open_version(tmp_path, "shop", made[0]).meta == {"round": 0}


def test_equal_content_has_an_equal_hash_and_a_new_number(tmp_path: Path) -> None:
    first = artifacts.publish(tmp_path, "shop", ARRAYS, {"a": 1, "b": 2})
    second = artifacts.publish(tmp_path, "shop", ARRAYS, {"b": 2, "a": 1})
    assert first != second
    assert first.split("-")[1] == second.split("-")[1]


@pytest.mark.parametrize("namespace", ["../x", "", "a/b", "/etc", "..", "röd", "a" * 400, "x\0y"])
def test_any_namespace_stays_inside_the_root(tmp_path: Path, namespace: str) -> None:
    root = tmp_path / "state"
    artifacts.publish(root, namespace, ARRAYS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert artifacts.open_version(root, namespace).meta == {}


def test_namespaces_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    artifacts.publish(tmp_path, "a/b", ARRAYS, {"who": 1})
    artifacts.publish(tmp_path, "a_b", ARRAYS, {"who": 2})
    assert artifacts.open_version(tmp_path, "a/b").meta == {"who": 1}
    assert artifacts.versions(tmp_path, "a b") == []


def test_nothing_published_is_said_so(tmp_path: Path) -> None:
    assert artifacts.current(tmp_path, "shop") is None
    assert artifacts.versions(tmp_path, "shop") == []
    with pytest.raises(ArtifactError, match="nothing has been published"):
        artifacts.open_version(tmp_path, "shop")


@pytest.mark.parametrize("name", ["manifest.json", "arrays.safetensors"])
@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
def test_one_damaged_byte_is_refused_by_name(tmp_path: Path, name: str, place: float) -> None:
    good = artifacts.publish(tmp_path, "shop", ARRAYS, {"round": 1})
    bad = artifacts.publish(tmp_path, "shop", ARRAYS, {"round": 2})
    path = next(tmp_path.glob(f"*/{bad}/{name}"))
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name}.*damaged"):
        artifacts.open_version(tmp_path, "shop")
    assert artifacts.open_version(tmp_path, "shop", good).meta == {"round": 1}


@pytest.mark.parametrize("name", ["manifest.json", "arrays.safetensors"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    version = artifacts.publish(tmp_path, "shop", ARRAYS, {})
    next(tmp_path.glob(f"*/{version}/{name}")).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}.*missing"):
        artifacts.open_version(tmp_path, "shop", verify=False)


def test_a_shortened_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    version = artifacts.publish(tmp_path, "shop", ARRAYS, {})
    path = next(tmp_path.glob(f"*/{version}/arrays.safetensors"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match="bytes instead of"):
        artifacts.open_version(tmp_path, "shop", verify=False)


def test_a_version_copied_from_another_namespace_is_refused(tmp_path: Path) -> None:
    version = artifacts.publish(tmp_path, "theirs", ARRAYS, {})
    source = next(tmp_path.glob(f"*/{version}"))
    source.rename(home_of(tmp_path, "ours") / version)
    with pytest.raises(ArtifactError, match="another namespace than 'ours'"):
        artifacts.open_version(tmp_path, "ours", version)


@pytest.mark.parametrize(("found", "age"), [(1, "an older"), (3, "a newer"), ("x", "an older")])
def test_another_format_is_refused(tmp_path: Path, found: object, age: str) -> None:
    version = artifacts.publish(tmp_path, "shop", ARRAYS, {})
    path = next(tmp_path.glob(f"*/{version}/manifest.json"))
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format_version": found}))
    with pytest.raises(ArtifactError, match=f"{age} format"):
        artifacts.open_version(tmp_path, "shop")


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000])
def test_what_is_no_manifest_is_told(tmp_path: Path, content: str) -> None:
    version = artifacts.publish(tmp_path, "shop", ARRAYS, {})
    next(tmp_path.glob(f"*/{version}/manifest.json")).write_text(content)
    with pytest.raises(ArtifactError, match="not a manifest"):
        artifacts.open_version(tmp_path, "shop")


def test_a_damaged_pointer_is_refused(tmp_path: Path) -> None:
    (home_of(tmp_path, "shop") / "current").write_text("../../elsewhere")
    with pytest.raises(ArtifactError, match="does not hold a version id"):
        artifacts.open_version(tmp_path, "shop")


def test_a_version_id_cannot_leave_the_folder(tmp_path: Path) -> None:
    home_of(tmp_path, "shop")
    for call in (artifacts.open_version, artifacts.remove):
        with pytest.raises(ArtifactError, match="is not a version id"):
            call(tmp_path, "shop", "../../etc")


@pytest.mark.parametrize(
    "array", [np.zeros(2), np.array(["a"]), np.array([{}]), np.zeros(2, np.complex64)]
)
def test_an_unsupported_array_publishes_nothing(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match=r"array 'bad' is .*; store one of float16"):
        artifacts.publish(tmp_path, "shop", {**ARRAYS, "bad": array}, {})
    assert artifacts.versions(tmp_path, "shop") == []


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": object()}])
def test_meta_must_be_json(tmp_path: Path, meta: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="meta cannot be written"):
        artifacts.publish(tmp_path, "shop", ARRAYS, meta)


def test_groups_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be a file name"):
        artifacts.publish(tmp_path, "shop", ARRAYS, {}, groups={"means": "../out"})
    with pytest.raises(ArtifactError, match="not there: gone"):
        artifacts.publish(tmp_path, "shop", ARRAYS, {}, groups={"gone": "layers"})


def test_a_failed_write_keeps_the_previous_version(tmp_path: Path) -> None:
    previous = artifacts.publish(tmp_path, "shop", ARRAYS, {})
    wanted = {**ARRAYS, "long": np.zeros(2, np.float32)}
    with pytest.raises(ArtifactError, match="could not publish"):
        artifacts.publish(tmp_path, "shop", wanted, {}, groups={"long": "x" * 300})
    assert artifacts.current(tmp_path, "shop") == previous
    assert not list(tmp_path.glob("*/.staging-*"))


def test_remove_takes_the_files_and_leaves_open_arrays(tmp_path: Path) -> None:
    old, new = (artifacts.publish(tmp_path, "shop", ARRAYS, {"i": i}) for i in range(2))
    opened = artifacts.open_version(tmp_path, "shop", old)
    artifacts.remove(tmp_path, "shop", old)
    artifacts.remove(tmp_path, "shop", old)
    assert artifacts.versions(tmp_path, "shop") == [new]
    assert not list(tmp_path.glob("*/.staging-*"))
    np.testing.assert_array_equal(opened.arrays["means"], ARRAYS["means"])
    with pytest.raises(ArtifactError, match="was removed or never published"):
        artifacts.open_version(tmp_path, "shop", old)


def test_removing_the_current_version_leaves_none_current(tmp_path: Path) -> None:
    version = artifacts.publish(tmp_path, "shop", ARRAYS, {})
    artifacts.remove(tmp_path, "shop", version)
    artifacts.remove(tmp_path, "nobody", version)
    assert artifacts.current(tmp_path, "shop") is None


def test_prune_keeps_the_newest_and_the_current(tmp_path: Path) -> None:
    made = [artifacts.publish(tmp_path, "shop", ARRAYS, {"i": i}) for i in range(4)]
    next(tmp_path.glob("*/current")).write_text(made[0])
    assert artifacts.prune(tmp_path, "shop", keep=2) == [made[1]]
    assert artifacts.versions(tmp_path, "shop") == [made[0], made[2], made[3]]
    with pytest.raises(ConfigError, match="keep is 0"):
        artifacts.prune(tmp_path, "shop", keep=0)


def test_a_header_that_points_outside_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.safetensors"
    save_file({"x": np.zeros(4, np.float32)}, path)
    path.write_bytes(path.read_bytes().replace(b"[0,16]", b"[0,99]"))
    with pytest.raises(ArtifactError, match="does not lie within the file"):
        artifacts._map_arrays(path)
