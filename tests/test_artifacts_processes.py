"""Artifacts under real processes: killed while publishing, and publishing at the same time."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from copersona import artifacts

ARRAYS = {"a": np.zeros(3, np.float32), "b": np.ones(3, np.float32)}

PUBLISH_FOR_EVER = """
import sys
from pathlib import Path
import numpy as np
from copersona import artifacts

root, i = Path(sys.argv[1]), 0
while True:
    arrays = {name: np.full(20_000, i, np.float32) for name in "abc"}
    artifacts.publish(root, "shop", arrays, {"i": i}, groups={"a": "one", "b": "two"})
    artifacts.prune(root, "shop", keep=3)
    i += 1
"""

# Dies by SIGKILL at the n-th time it is about to flush something to the disk.
KILLED_AT_FLUSH = """
import os, signal, sys
from pathlib import Path
import numpy as np
from copersona import artifacts

left, flush = int(sys.argv[2]), os.fsync

def dying_flush(handle):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(handle)

os.fsync = dying_flush
arrays = {"a": np.full(3, 7, np.float32), "b": np.full(3, 8, np.float32)}
artifacts.publish(Path(sys.argv[1]), "shop", arrays, {"i": 1}, groups={"a": "one"})
"""

PUBLISH_TEN = """
import sys
from pathlib import Path
import numpy as np
from copersona import artifacts

for i in range(10):
    arrays = {"who": np.full(5_000, int(sys.argv[2]), np.int32)}
    artifacts.publish(Path(sys.argv[1]), "shop", arrays, {"who": int(sys.argv[2])})
"""


def start(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


def wait_for_new(root: Path, seen: str | None) -> None:
    deadline = time.monotonic() + 30
    while artifacts.current(root, "shop") == seen:
        assert time.monotonic() < deadline, "the publisher published nothing"
        time.sleep(0.002)


def check_all(root: Path) -> None:
    in_force = artifacts.open_version(root, "shop")
    assert in_force.version in artifacts.versions(root, "shop")
    for version in artifacts.versions(root, "shop"):
        opened = artifacts.open_version(root, "shop", version)
        for array in opened.arrays.values():
            assert (array == array[0]).all()


def test_kill_at_any_moment_leaves_a_whole_version_in_force(tmp_path: Path) -> None:
    moments, seen = random.Random(7), None
    for _ in range(5):
        publisher = start(PUBLISH_FOR_EVER, tmp_path)
        wait_for_new(tmp_path, seen)
        time.sleep(moments.uniform(0, 0.05))
        publisher.send_signal(signal.SIGKILL)
        assert publisher.wait() == -signal.SIGKILL
        check_all(tmp_path)
        seen = artifacts.current(tmp_path, "shop")
    artifacts.publish(tmp_path, "shop", ARRAYS, {})
    assert not list(tmp_path.glob("*/.staging-*"))


# Flushes of one publish: the root, two array files, the manifest, the staging folder, the folder
# after the rename, the pointer, the folder after the pointer.
@pytest.mark.parametrize("flush", range(1, 9))
def test_kill_at_each_flush(tmp_path: Path, flush: int) -> None:
    previous = artifacts.publish(tmp_path, "shop", ARRAYS, {"i": 0})
    assert start(KILLED_AT_FLUSH, tmp_path, flush).wait() == -signal.SIGKILL
    opened = artifacts.open_version(tmp_path, "shop")
    assert (opened.version == previous) == (flush < 8)
    assert opened.meta == {"i": 0 if flush < 8 else 1}
    for version in artifacts.versions(tmp_path, "shop"):
        artifacts.open_version(tmp_path, "shop", version)
    newest = artifacts.publish(tmp_path, "shop", ARRAYS, {"i": 2})
    assert artifacts.versions(tmp_path, "shop")[-1] == newest
    assert not list(tmp_path.glob("*/.staging-*"))


def test_two_publishers_at_once_lose_nothing(tmp_path: Path) -> None:
    publishers = [start(PUBLISH_TEN, tmp_path, who) for who in (1, 2)]
    assert [publisher.wait() for publisher in publishers] == [0, 0]
    made = artifacts.versions(tmp_path, "shop")
    numbers = [int(version.split("-")[0]) for version in made]
    assert numbers == list(range(1, 21))
    assert artifacts.current(tmp_path, "shop") == made[-1]
    authors = [artifacts.open_version(tmp_path, "shop", version).meta["who"] for version in made]
    assert sorted(authors) == [1] * 10 + [2] * 10


def test_a_living_publisher_keeps_its_staging_folder(tmp_path: Path) -> None:
    artifacts.publish(tmp_path, "shop", ARRAYS, {})
    home = next(path for path in tmp_path.iterdir() if path.is_dir())
    with artifacts.staging(home) as mine:
        (mine / "half").write_text("written")
        artifacts.publish(tmp_path, "shop", ARRAYS, {})
        assert (mine / "half").read_text() == "written"
    assert not list(home.glob(".staging-*"))
