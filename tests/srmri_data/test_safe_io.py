"""Whole files or none, bounded reads, contained paths."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from srmri_data.errors import FormatError, MissingInputError
from srmri_data.safe_io import (
    atomic_path,
    atomic_write,
    contained,
    read_bounded,
    read_json,
    sha256_file,
    sweep_temporaries,
    write_json,
)


def test_exception_keeps_the_old_file_and_leaves_nothing(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail():
        with atomic_write(target, "w") as file:
            file.write("half")
            raise RuntimeError("while writing")

    with pytest.raises(RuntimeError, match="while writing"):
        fail()
    assert target.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_keeps_all_suffixes(tmp_path):
    with atomic_path(tmp_path / "sub" / "v.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
    assert (tmp_path / "sub" / "v.nii.gz").read_bytes() == b"x"


def test_permissions_follow_the_umask(tmp_path):
    with atomic_write(tmp_path / "a") as file:
        file.write(b"")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_kill_while_writing_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    code = textwrap.dedent(f"""
        import os, signal
        from srmri_data.safe_io import atomic_write
        with atomic_write({str(target)!r}, "w") as file:
            file.write("half"); file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9  # the fault was hit
    assert target.read_text(encoding="utf-8") == "old"
    (orphan,) = sweep_temporaries(tmp_path)
    assert not orphan.exists()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_round_trip_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"µ": [1.5, None]})
    assert read_json(tmp_path / "a.json") == {"µ": [1.5, None]}
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_reads_are_bounded_and_typed(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 11)
    assert read_bounded(tmp_path / "big", 11) == b"x" * 11
    with pytest.raises(FormatError, match="larger than"):
        read_bounded(tmp_path / "big", 10)
    with pytest.raises(FormatError, match="folder"):
        read_bounded(tmp_path, 10)
    with pytest.raises(MissingInputError):
        read_json(tmp_path / "none")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(FormatError, match="not a JSON"):
        read_json(tmp_path / "bad.json")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x", "a\x00b"])
def test_names_do_not_leave_the_root(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(FormatError, match="leads out"):
        contained(root, name)


def test_names_inside_the_root_are_joined(tmp_path):
    assert contained(tmp_path, "a/../b") == tmp_path.resolve() / "b"


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
