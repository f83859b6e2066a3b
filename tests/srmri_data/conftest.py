"""A ParaVision reconstruction written from first principles, to read back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_WORDS = {
    "uint8": "_8BIT_UNSGN_INT",
    "int16": "_16BIT_SGN_INT",
    "int32": "_32BIT_SGN_INT",
    "float32": "_32BIT_FLOAT",
}


def write_reco(
    folder: Path,
    stored: np.ndarray,
    *,
    affine: np.ndarray | None = None,
    dims: int = 3,
    groups: Sequence[str] = (),
    order: str = "little",
    slope: Any = 1.0,
    offset: Any = 0.0,
    transposition: Sequence[int] | None = None,
    reverse: bool = False,
    packages: Sequence[tuple[int, np.ndarray]] | None = None,
    thickness: float | None = None,
    version: str = "6.0.1",
    **visu: str | None,
) -> Path:
    """Write `visu_pars` and `2dseq`; `stored` is (core…, frame groups…) as it shall be read.

    `affine` is in DICOM patient coordinates. `packages` gives (slice count, affine)
    of several slice packages. Further keywords replace records of visu_pars, None
    removes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([0.1, 0.2, 0.3, 1.0]) if affine is None else affine
    core, sizes = stored.shape[:dims], stored.shape[dims:]
    frames = int(np.prod(sizes, dtype=int))
    slices = dict(zip(groups, sizes, strict=True)).get("FG_SLICE", 1)
    packages = packages or [(slices if dims == 2 else 1, affine)]
    steps = np.linalg.norm(packages[0][1][:3, :3], axis=0)

    orientation, position, slice_packages, first = [], [], [], 0
    for count, matrix in packages:
        unit = matrix[:3, :2] / np.linalg.norm(matrix[:3, :2], axis=0)
        rows = np.vstack([unit.T, np.cross(unit[:, 0], unit[:, 1])])
        if dims == 3:
            rows[2] = matrix[:3, 2] / np.linalg.norm(matrix[:3, 2])
        for index in range(count):
            orientation.append(rows.ravel())
            position.append(matrix[:3, 3] + index * matrix[:3, 2])
        slice_packages.append(f"({first}, {count})")
        first += count

    disk = stored
    if reverse:
        axis = 2 if dims == 3 else dims + list(groups).index("FG_SLICE")
        disk = np.flip(stored, axis)
        if dims == 2:
            position = position[::-1]
    blocks = []
    for index in range(frames):
        where = np.unravel_index(index, sizes, order="F") if sizes else ()
        frame = disk[(slice(None),) * dims + tuple(where)]
        exchange = transposition[index] if transposition is not None else 0
        if exchange:
            one, other = (0, dims - 1) if exchange == dims else (exchange - 1, exchange)
            frame = np.swapaxes(frame, one, other)
        blocks.append(frame.ravel(order="F"))
    code = {"little": "<", "big": ">"}[order]
    flat = np.concatenate(blocks)
    (folder / "2dseq").write_bytes(flat.astype(flat.dtype.newbyteorder(code)).tobytes())

    def per_frame(value: Any) -> str:
        values = np.broadcast_to(np.asarray(value, dtype=float), (frames,))
        return f"( {frames} )\n" + " ".join(repr(float(number)) for number in values)

    def numbers(array: Any) -> str:
        array = np.asarray(array, dtype=float)
        shape = ", ".join(str(side) for side in array.shape)
        return f"( {shape} )\n" + " ".join(repr(float(number)) for number in array.ravel())

    records: dict[str, str | None] = {
        "VisuCreatorVersion": f"( 65 )\n<{version}>",
        "VisuCoreFrameCount": str(frames),
        "VisuCoreDim": str(dims),
        "VisuCoreSize": f"( {dims} )\n" + " ".join(str(side) for side in core),
        "VisuCoreDimDesc": f"( {dims} )\n" + " ".join(["spatial"] * dims),
        "VisuCoreExtent": numbers(np.asarray(core) * steps[:dims]),
        "VisuCoreFrameThickness": numbers([steps[2] if thickness is None else thickness]),
        "VisuCoreUnits": f"( {dims}, 65 )\n" + " ".join(["<mm>"] * dims),
        "VisuCoreOrientation": numbers(orientation),
        "VisuCorePosition": numbers(position),
        "VisuCoreDataSlope": per_frame(slope),
        "VisuCoreDataOffs": per_frame(offset),
        "VisuCoreSlicePacksSlices": f"( {len(packages)} )\n" + " ".join(slice_packages),
        "VisuCoreSlicePacksSliceDist": numbers(
            [np.linalg.norm(matrix[:3, 2]) for _, matrix in packages]
        ),
        "VisuCoreWordType": _WORDS[stored.dtype.name],
        "VisuCoreByteOrder": f"{order}Endian",
        "VisuSubjectId": "( 65 )\n<m01>",
        "VisuSubjectType": "Quadruped",
        "VisuSubjectPosition": "Head_Prone",
        "VisuAcqSequenceName": "( 40 )\n<Bruker:FLASH>",
        "VisuAcquisitionProtocol": "( 65 )\n<T1_FLASH_3D>",
        "VisuAcqRepetitionTime": "( 1 )\n100",
        "VisuAcqEchoTime": "( 1 )\n5.5",
        "VisuAcqFlipAngle": "45",
    }
    if groups:
        described = " ".join(
            f"({size}, <{name}>, <>, 0, 0)" for name, size in zip(groups, sizes, strict=True)
        )
        records["VisuFGOrderDesc"] = f"( {len(groups)} )\n{described}"
    if reverse:
        records["VisuCoreDiskSliceOrder"] = "disk_reverse_slice_order"
    if transposition is not None:
        listed = " ".join(str(value) for value in transposition)
        records["VisuCoreTransposition"] = f"( {len(transposition)} )\n{listed}"
    records |= visu
    lines = ["##TITLE=Parameter List, ParaVision 6.0.1", "##JCAMPDX=4.24"]
    lines += ["##DATATYPE=Parameter Values", "##ORIGIN=test", "##OWNER=test"]
    lines += [f"##${key}={value}" for key, value in records.items() if value is not None]
    (folder / "visu_pars").write_text("\n".join([*lines, "##END=", ""]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def paravision() -> Callable[..., Path]:
    """`write_reco`, for tests that need a ParaVision reconstruction."""
    return write_reco


@pytest.fixture
def asymmetric() -> np.ndarray:
    """A 7×6×5 int16 volume in which no flip or exchange of axes goes unseen."""
    i, j, k = np.ogrid[:7, :6, :5]
    return (i + 10 * j + 100 * k + 3 * i * k - 250).astype(np.int16)
