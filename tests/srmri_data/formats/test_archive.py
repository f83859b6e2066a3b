"""Archives from anywhere: nothing outside the temporary folder, nothing left behind."""

from __future__ import annotations

import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from srmri_data.errors import (
    ChecksumError,
    FormatError,
    MissingInputError,
    SizeLawError,
    SrmriError,
)
from srmri_data.formats import find_images, read_headers, read_volume
from srmri_data.formats.archive import materialise

Write = Callable[..., Path]


@pytest.fixture
def private_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for temporary files, to see what is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def pack(archive: Path, folder: Path, *, deflate: bool = True) -> Path:
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(archive, "w", method) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(folder))
    return archive


@pytest.mark.parametrize("place", ["study/5/pdata/1", "5/pdata/1", "pdata/1", "."])
def test_study_scan_reco_and_flat_folder(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path, private_temp: Path, place: str
) -> None:
    paravision(tmp_path / "in" / place, asymmetric, slope=0.5)
    archive = pack(tmp_path / "a.zip", tmp_path / "in")
    (image,) = find_images(archive)
    assert image == archive / place
    (header,) = read_headers(archive)
    assert header.provenance.value("scan") == (5 if "5" in place else None)
    np.testing.assert_array_equal(read_volume(header).data, asymmetric * np.float32(0.5))
    assert list(private_temp.iterdir()) == []


def test_header_leaves_the_voxels_in_the_archive(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    paravision(tmp_path / "in/5/pdata/1", asymmetric)
    archive = pack(tmp_path / "a.PvDatasets", tmp_path / "in")
    with materialise(archive / "5/pdata/1", voxels=False) as (place, sizes):
        assert [p.name for p in place.iterdir()] == ["visu_pars"]
        assert sizes == {"2dseq": 420}
    assert not place.exists()


def test_damage_is_seen(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path, private_temp: Path
) -> None:
    paravision(tmp_path / "in/5/pdata/1", asymmetric)
    archive = pack(tmp_path / "a.zip", tmp_path / "in", deflate=False)
    whole = bytearray(archive.read_bytes())
    whole[whole.index(asymmetric.ravel(order="F").tobytes()) + 10] ^= 1
    archive.write_bytes(whole)
    (header,) = read_headers(archive)
    with pytest.raises(ChecksumError, match="2dseq"):
        read_volume(header)
    assert list(private_temp.iterdir()) == []
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="zip"):
        read_headers(archive)
    archive.write_bytes(b"")
    with pytest.raises(FormatError, match="zip"):
        read_headers(archive)


HOSTILE_NAMES = [
    "../../2dseq",
    "/2dseq",
    "a/../../2dseq",
    "../2dseq",
    "./../2dseq",
    "a/b/../../../2dseq",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_climb_out(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path, private_temp: Path, name: str
) -> None:
    folder = paravision(tmp_path / "in", asymmetric)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for part in ("2dseq", "visu_pars"):
            # A ZipInfo of one's own: ZipFile.write would tidy the name.
            member = zipfile.ZipInfo(name.replace("2dseq", part))
            file.writestr(member, (folder / part).read_bytes())
    before = {p for p in tmp_path.rglob("*") if private_temp not in p.parents}
    for image in (archive, *find_images(archive)):
        with pytest.raises(SrmriError):
            read_volume(image)
    assert {p for p in tmp_path.rglob("*") if private_temp not in p.parents} == before
    assert list(private_temp.iterdir()) == []


def test_links_are_refused(paravision: Write, asymmetric: np.ndarray, tmp_path: Path) -> None:
    folder = paravision(tmp_path / "in", asymmetric)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "visu_pars", "visu_pars")
        link = zipfile.ZipInfo("2dseq")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    with pytest.raises(FormatError, match="link"):
        read_headers(archive)


def test_twice_the_same_name(paravision: Write, asymmetric: np.ndarray, tmp_path: Path) -> None:
    folder = paravision(tmp_path / "in", asymmetric)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("visu_pars", "2dseq"):
            file.write(folder / name, name)
        with pytest.warns(UserWarning, match="Duplicate"):
            file.write(folder / "2dseq", "2dseq")
    with pytest.raises(FormatError, match="twice"):
        read_headers(archive)


def test_claims_beyond_what_deflate_can_hold(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    paravision(tmp_path / "in", asymmetric)
    archive = pack(tmp_path / "a.zip", tmp_path / "in")
    whole = bytearray(archive.read_bytes())
    # The central directory's entry of 2dseq claims 3 GB.
    at = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"visu_pars"))
    first = whole.index(b"PK\x01\x02")
    assert whole[first + 46 : first + 51] == b"2dseq"
    assert at != first
    whole[first + 24 : first + 28] = struct.pack("<I", 3_000_000_000)
    archive.write_bytes(whole)
    with pytest.raises(SizeLawError, match="claims"):
        read_headers(archive)


def test_encrypted_member(paravision: Write, asymmetric: np.ndarray, tmp_path: Path) -> None:
    paravision(tmp_path / "in", asymmetric)
    archive = pack(tmp_path / "a.zip", tmp_path / "in")
    whole = bytearray(archive.read_bytes())
    first = whole.index(b"PK\x01\x02")
    whole[first + 8] |= 1
    archive.write_bytes(whole)
    with pytest.raises(FormatError, match="encrypted"):
        read_headers(archive)


def test_no_bit_flip_in_an_archive_goes_unseen(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    paravision(tmp_path / "in", asymmetric)
    archive = pack(tmp_path / "a.zip", tmp_path / "in")
    whole = archive.read_bytes()
    refused = 0
    for at in np.random.default_rng(4).integers(0, len(whole) * 8, 300):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << (at % 8)
        archive.write_bytes(damaged)
        try:
            volume = read_volume(archive)
        except SrmriError:
            refused += 1
        else:
            np.testing.assert_array_equal(volume.data, asymmetric)
    assert refused > 150


def test_place_that_is_not_in_the_archive(
    paravision: Write, asymmetric: np.ndarray, tmp_path: Path
) -> None:
    paravision(tmp_path / "in/5/pdata/1", asymmetric)
    archive = pack(tmp_path / "a.zip", tmp_path / "in")
    with pytest.raises(MissingInputError):
        read_headers(archive / "6")
