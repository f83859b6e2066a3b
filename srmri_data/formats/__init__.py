"""Scanner files in, headers and volumes out: the only code that opens images.

Every format gives the same two things, an `ImageHeader` (nothing of the voxels
read) and a `Volume`. What a header claims is held against the size of the file
before anything is allocated.

Conventions, the same for every format and for the command line:

- world is RAS+ millimetres; voxel centres sit at integer indices;
- slice packages and frames are counted from 1, as people count echoes;
- an image inside a zip archive is named as if the archive were a folder,
  ``study.zip/5/pdata/1``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from srmri_data.choices import SubjectPosition, SubjectType, VoxelType
from srmri_data.errors import (
    AmbiguousScanError,
    FormatError,
    MissingInputError,
    NoScanError,
    SrmriError,
    UsageError,
)
from srmri_data.formats.archive import materialise, member_names, split_archive
from srmri_data.geometry import orientation_code, voxel_spacing
from srmri_data.types import Affine
from srmri_data.volumes import Provenance, Volume

_FORMAT_OF_SUFFIX = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".img": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
    ".dcm": "dicom",
    ".ima": "dicom",
}
_MAX_DEPTH = 8


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """One image of three or more dimensions, nothing of its voxels read.

    Parameters
    ----------
    path : Path
        What the user would name: a ``pdata/N`` or flat folder, a file, a folder
        of DICOM files, or one of these inside a zip archive.
    format : str
        ``paravision``, ``nifti``, ``nrrd``, ``metaimage`` or ``dicom``.
    shape : tuple of int
        Matrix size (i, j, k) of one 3-D volume.
    affine : (4, 4) ndarray
        Voxel to world RAS+ mm, in the subject's own frame where the format
        knows the subject.
    dtype : str
        Type of the voxels on disk, for instance ``"int16"``.
    provenance : Provenance
        Facts about the scan with their sources, and warnings.
    frame_groups : mapping of str to int
        Dimensions beyond the three of space, for instance ``{"echo": 3}``.
    packages : int
        Number of slice packages (or DICOM stacks) in the image.
    package : int
        Which of them this header describes, from 1.
    """

    path: Path
    format: str
    shape: tuple[int, int, int]
    affine: Affine
    dtype: str
    provenance: Provenance
    frame_groups: Mapping[str, int] = field(default_factory=dict)
    packages: int = 1
    package: int = 1

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis, in mm."""
        return voxel_spacing(self.affine)

    @property
    def orientation(self) -> str:
        """Closest anatomical direction of each array axis, for instance ``"RAS"``."""
        return orientation_code(self.affine)


def resolve_frame(header: ImageHeader, frame: Mapping[str, int] | None = None) -> dict[str, int]:
    """Choose exactly one frame, or say what has to be chosen.

    Parameters
    ----------
    header : ImageHeader
        The image.
    frame : mapping of str to int, optional
        Frame group to number, from 1; groups of one frame may be left out.

    Returns
    -------
    dict of str to int
        A number for every frame group of the image.

    Raises
    ------
    UsageError
        If a group does not exist or a number is out of range.
    AmbiguousScanError
        If a group of several frames is not chosen. Nothing is guessed, not
        even the magnitude of a complex pair.
    """
    asked = dict(frame or {})
    have = ", ".join(f"{name}=1..{count}" for name, count in header.frame_groups.items())
    for name, number in asked.items():
        count = header.frame_groups.get(name)
        if count is None:
            raise UsageError(f"{header.path} has no frame group {name!r} ({have or 'it has none'})")
        if not 1 <= number <= count:
            raise UsageError(f"{header.path}: {name}={number}, expected {name}=1..{count}")
    open_groups = [n for n, count in header.frame_groups.items() if count > 1 and n not in asked]
    if open_groups:
        raise AmbiguousScanError(
            f"{header.path} holds several frames, choose one: "
            + ", ".join(f"{name}=1..{header.frame_groups[name]}" for name in open_groups),
            hint=f"for instance --lr-frame {open_groups[0]}=1 (or --hr-frame)",
        )
    return {name: asked.get(name, 1) for name in header.frame_groups}


def find_images(path: Path) -> list[Path]:
    """List the images in a place without opening them.

    Parameters
    ----------
    path : Path
        A study, scan, ``pdata/N`` or flat folder, an image file, a folder of
        image files, or a zip archive of any of these.

    Returns
    -------
    list of Path
        One path per image, scans in numerical order. A reconstruction with
        missing files is listed too: reading it says what is wrong. Exports
        inside a ``pdata/N`` folder (DICOM, NIfTI) are the same image again and
        are left out.

    Raises
    ------
    MissingInputError
        If there is no such path.
    FormatError
        If `path` is a file of unknown kind.
    """
    path = Path(path)
    inside = split_archive(path)
    if inside is not None:
        archive, inner = inside
        names = member_names(archive, inner)
        if names == [inner]:
            return [path]
        base = archive / inner
        relative = [name.relative_to(inner) for name in names]
        return [base / image for image in _images_among(relative)]
    if not path.exists():
        raise MissingInputError(f"{path}: no such file or folder")
    if path.is_file():
        if path.name in ("2dseq", "visu_pars"):
            return [path.parent]
        _format_of_file(path)
        return [path]
    return [path / image for image in _images_among(_walk(path))]


def read_headers(
    path: Path,
    *,
    subject_type: SubjectType | None = None,
    subject_position: SubjectPosition | None = None,
) -> list[ImageHeader]:
    """Read the header of one image.

    Parameters
    ----------
    path : Path
        One image, or a folder or archive that holds exactly one.
    subject_type : str, optional
        What the subject really is, where the header is wrong or silent
        (ParaVision and DICOM).
    subject_position : str, optional
        How the subject really lay, where the operator declared something else
        (ParaVision only), see `srmri_data.formats.bruker.position_correction`.

    Returns
    -------
    list of ImageHeader
        One per slice package, or per series and stack of a DICOM folder.

    Raises
    ------
    MissingInputError, FormatError, AffineError
        If the image can not be read.
    NoScanError
        If there is none.
    AmbiguousScanError
        If there are several.
    """
    path = Path(path)
    images = find_images(path)
    if not images:
        raise NoScanError(f"{path}: no image found", hint="`srmri inspect` lists what it looks for")
    if len(images) > 1:
        raise AmbiguousScanError(
            f"{path} holds {len(images)} images: " + ", ".join(str(i) for i in images[:12]),
            hint="name one of them, or choose with --lr-scan/--lr-reco",
        )
    return read_image_headers(
        images[0], subject_type=subject_type, subject_position=subject_position
    )


def read_image_headers(
    path: Path,
    *,
    subject_type: SubjectType | None = None,
    subject_position: SubjectPosition | None = None,
) -> list[ImageHeader]:
    """Read the header of an image that `find_images` listed.

    Parameters
    ----------
    path : Path
        One element of what `find_images` returned.
    subject_type, subject_position : str, optional
        As for `read_headers`.

    Returns
    -------
    list of ImageHeader
        One per slice package or DICOM stack.
    """
    inside = split_archive(Path(path))
    with _readable(path), materialise(path, voxels=False) as (place, sizes):
        headers = _headers_of(place, path, sizes, subject_type, subject_position)
    if inside is None:
        return headers
    # What can be hashed later is the archive, not what was unpacked from it.
    return [replace(h, provenance=replace(h.provenance, files=(inside[0],))) for h in headers]


def _headers_of(
    place: Path,
    path: Path,
    sizes: Mapping[str, int],
    subject_type: SubjectType | None,
    subject_position: SubjectPosition | None,
) -> list[ImageHeader]:
    kind = _format_of(place)
    if kind == "paravision":
        from srmri_data.formats import bruker

        return bruker.read_headers(
            place,
            name=path,
            data_bytes=sizes.get("2dseq"),
            subject_type=subject_type,
            subject_position=subject_position,
        )
    if subject_position is not None:
        raise UsageError(
            f"{path}: the subject position can be corrected for ParaVision only, this is {kind}"
        )
    if kind == "nifti":
        from srmri_data.formats import nifti

        headers = nifti.read_headers(place, name=path)
    else:
        from srmri_data.formats import itk

        if kind == "dicom":
            return itk.read_dicom_headers(place, name=path, subject_type=subject_type)
        headers = itk.read_headers(place, name=path)
    if subject_type is not None:
        raise UsageError(
            f"{path}: a subject type can be given for ParaVision and DICOM only; "
            f"{kind} states its world axes itself"
        )
    return headers


def read_volume(
    header: ImageHeader | Path,
    *,
    frame: Mapping[str, int] | None = None,
    dtype: VoxelType = "float32",
) -> Volume:
    """Read one 3-D volume.

    Parameters
    ----------
    header : ImageHeader or Path
        What to read. A path must hold exactly one image with one slice package.
    frame : mapping of str to int, optional
        Frame group to number, from 1; needed for every group of several frames.
    dtype : {"float32", "stored"}
        Scanner units as float32, or the numbers on disk with their slope and
        intercept kept apart. DICOM is scaled while it is decoded and gives
        float32 either way.

    Returns
    -------
    Volume
        Voxels in stored axis order (Fortran order), affine of the header.

    Raises
    ------
    MissingInputError, FormatError, AffineError
        If the image can not be read.
    AmbiguousScanError
        If several packages or frames fit.
    """
    if not isinstance(header, ImageHeader):
        headers = read_headers(header)
        if len(headers) > 1:
            raise AmbiguousScanError(
                f"{header} holds {len(headers)} slice packages",
                hint="read_headers lists them; read_volume takes one of these headers",
            )
        header = headers[0]
    chosen = resolve_frame(header, frame)
    with _readable(header.path), materialise(header.path, voxels=True) as (place, _):
        if header.format == "paravision":
            from srmri_data.formats import bruker

            return bruker.read_volume(place, header, frame=chosen, dtype=dtype)
        if header.format == "nifti":
            from srmri_data.formats import nifti

            return nifti.read_volume(place, header, frame=chosen, dtype=dtype)
        from srmri_data.formats import itk

        if header.format == "dicom":
            return itk.read_dicom_volume(place, header)
        return itk.read_volume(place, header, dtype=dtype)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the operating system says into typed errors."""
    try:
        yield
    except SrmriError:
        raise
    except FileNotFoundError as error:
        raise MissingInputError(f"{path}: {error.filename} vanished or is missing") from error
    except OSError as error:
        raise FormatError(f"{path}: can not be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise FormatError(f"{path}: does not fit into memory") from error


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``2`` before ``10``.

    Parameters
    ----------
    text : str
        A name or path.

    Returns
    -------
    tuple
        Comparable with the keys of other texts.
    """
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts)


def _suffix(name: str) -> str:
    lower = name.lower()
    return ".nii.gz" if lower.endswith(".nii.gz") else os.path.splitext(lower)[1]


def _format_of_file(path: Path) -> str:
    kind = _FORMAT_OF_SUFFIX.get(_suffix(path.name))
    if kind is not None:
        return kind
    with open(path, "rb") as file:
        if file.read(132)[128:] == b"DICM":
            return "dicom"
    raise FormatError(
        f"{path}: not an image format srmri reads",
        hint="it reads ParaVision, .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, DICOM, zips of these",
    )


def _format_of(place: Path) -> str:
    if place.is_file():
        return _format_of_file(place)
    if not place.is_dir():
        raise MissingInputError(f"{place}: no such file or folder")
    held = {entry.name for entry in os.scandir(place)}
    if held & {"2dseq", "visu_pars"} or place.parent.name == "pdata":
        return "paravision"
    return "dicom"


def _walk(root: Path) -> list[PurePosixPath]:
    """Relative names of the files below `root`; links that lead out of it are left out."""
    inside = root.resolve()
    found = []
    for folder, subfolders, files in os.walk(root):
        place = Path(folder)
        relative = PurePosixPath(place.relative_to(root).as_posix())
        found += [
            relative / name
            for name in files
            if not name.startswith(".")
            and not (
                (place / name).is_symlink() and not (place / name).resolve().is_relative_to(inside)
            )
        ]
        is_reco = not {"2dseq", "visu_pars"}.isdisjoint(files) and "pdata" not in subfolders
        if is_reco or len(relative.parts) >= _MAX_DEPTH:
            subfolders.clear()
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return found


def _images_among(names: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    folders: dict[PurePosixPath, set[str]] = {}
    holds_pdata = set()
    for name in names:
        folders.setdefault(name.parent, set()).add(name.name)
        holds_pdata |= {folder.parent for folder in name.parents if folder.name == "pdata"}
    recos = {
        folder
        for folder, files in folders.items()
        if "2dseq" in files
        or ("visu_pars" in files and folder not in holds_pdata)
        or (folder.parent.name == "pdata" and folder.name.isdecimal())
    }
    images = set(recos)
    for folder, files in folders.items():
        if recos.isdisjoint([folder, *folder.parents]):
            kinds = {name: _FORMAT_OF_SUFFIX.get(_suffix(name)) for name in files}
            images |= {folder / n for n, kind in kinds.items() if kind not in (None, "dicom")}
            if "dicom" in kinds.values():
                images.add(folder)
    # An .img belongs to the .hdr beside it and is not an image of its own.
    images -= {i for i in images if i.suffix.lower() == ".img" and i.with_suffix(".hdr") in images}
    return sorted(images, key=lambda image: natural_key(str(image)))
