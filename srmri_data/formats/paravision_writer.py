"""Write ParaVision studies: 3-D gradient-echo scans as ParaVision 6.0.1 stores them.

For simulated scans and tests. The files carry what a reader needs for values,
geometry and the usual questions about a FLASH scan; they say that srmri wrote
them. The same input gives the same bytes: dates are fixed and identifiers are
derived from the content.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from srmri_data.errors import AffineError, UsageError
from srmri_data.safe_io import atomic_write, write_text
from srmri_data.types import Affine
from srmri_data.volumes import Volume

WordType = Literal["_8BIT_UNSGN_INT", "_16BIT_SGN_INT", "_32BIT_SGN_INT", "_32BIT_FLOAT"]

_WORD_DTYPE: dict[WordType, np.dtype[Any]] = {
    "_8BIT_UNSGN_INT": np.dtype("u1"),
    "_16BIT_SGN_INT": np.dtype("<i2"),
    "_32BIT_SGN_INT": np.dtype("<i4"),
    "_32BIT_FLOAT": np.dtype("<f4"),
}

# Patient frame of ParaVision (R to L, A to P, F to H) to RAS. An animal lies in
# the bore head first, so its spine is the patient's long axis.
_RAS_OF_RODENT = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
_RAS_OF_PATIENT = np.diag([-1.0, -1.0, 1.0])
_RAS_OF_SUBJECT = {
    "Quadruped": _RAS_OF_RODENT,
    "OtherAnimal": _RAS_OF_RODENT,
    "Biped": _RAS_OF_PATIENT,
    "Phantom": _RAS_OF_PATIENT,
    "Other": _RAS_OF_PATIENT,
}
_POSITIONS = tuple(
    f"{a}_{b}" for a in ("Head", "Foot") for b in ("Supine", "Prone", "Left", "Right")
)

_SLICE_ORIENT = ("sagittal", "coronal", "axial")
_READ_ORIENT = ("L_R", "A_P", "H_F")
_DATE = "2000-01-01T00:00:00,000+0000"
_ABS_TIME = "(946684800, 0, 0)"
_WIDTH = 76


@dataclass(frozen=True)
class FlashProtocol:
    """Sequence facts that go into the headers.

    Parameters
    ----------
    name : str
        Protocol name as the operator sees it.
    echo_time_ms, repetition_time_ms : float
        TE and TR in milliseconds.
    flip_angle_deg : float
        Excitation angle in degrees.
    bandwidth_hz : float
        Acquisition bandwidth over the whole readout.
    averages : int
        Number of averages.
    frequency_mhz : float
        Proton frequency; 400.3 is 9.4 T.
    """

    name: str = "T2star_FLASH_3D"
    echo_time_ms: float = 5.0
    repetition_time_ms: float = 100.0
    flip_angle_deg: float = 45.0
    bandwidth_hz: float = 125_000.0
    averages: int = 1
    frequency_mhz: float = 400.3


def write_paravision_study(
    scans: Volume | Sequence[tuple[int, Volume]],
    directory: Path,
    *,
    subject_id: str,
    subject_type: str = "Quadruped",
    position: str = "Head_Prone",
    protocol: FlashProtocol | None = None,
    word_type: WordType = "_16BIT_SGN_INT",
) -> Path:
    r"""Write volumes as the scans of one study.

    Parameters
    ----------
    scans : Volume or sequence of (int, Volume)
        One volume, which becomes scan 1, or scan numbers with their volumes.
    directory : Path
        Study folder. Scans that are in it already are left alone.
    subject_id : str
        Up to 59 printable characters without ``< > \``.
    subject_type : str
        ``Quadruped``, ``OtherAnimal`` (rodent frame), ``Biped``, ``Phantom`` or ``Other``.
    position : str
        For instance ``Head_Prone``. It names how the animal lay; the geometry is in the
        animal's own frame and does not depend on it.
    protocol : FlashProtocol, optional
        Sequence facts; by default those of the published scans.
    word_type : str
        How voxels are stored. Integers get one slope for the volume, as ParaVision's
        absolute mapping does.

    Returns
    -------
    Path
        `directory`.

    Raises
    ------
    UsageError
        If a name can not be written, a scan exists already, or intensities are not finite.
    AffineError
        If the voxel axes are not orthogonal: ParaVision has no room for shear.

    References
    ----------
    Bruker BioSpin, ParaVision 6.0.1 manual, chapter D02, file formats (``visu_pars``).
    """
    if isinstance(scans, Volume):
        scans = [(1, scans)]
    _check_names(subject_id, subject_type, position, scans, Path(directory))
    protocol = protocol or FlashProtocol()
    directory = Path(directory)
    study_uid = _uid("study", subject_id)
    # Before anything is written: all volumes must have a geometry that can be.
    frames = [_Geometry.of(volume, subject_type) for _, volume in scans]
    for (number, unscaled), geometry in zip(scans, frames, strict=True):
        volume = unscaled.scaled()
        stored = _Stored.of(volume, word_type)
        scan = directory / str(number)
        reco = scan / "pdata" / "1"
        digest = _write_2dseq(reco / "2dseq", volume.data, stored)
        uid = _uid(study_uid, str(number), digest)
        subject = {
            "VisuSubjectName": _text(subject_id),
            "VisuSubjectId": _text(subject_id),
            "VisuSubjectUid": _text(_uid("subject", subject_id)),
            "VisuSubjectInstanceCreationDate": _ABS_TIME,
            "VisuSubjectSex": "UNKNOWN",
            "VisuSubjectType": subject_type,
            "VisuStudyUid": _text(study_uid),
            "VisuStudyDate": f"<{_DATE}>",
            "VisuStudyId": _text(subject_id),
            "VisuStudyNumber": "1",
            "VisuExperimentNumber": str(number),
            "VisuProcessingNumber": "1",
            "VisuSeriesDate": f"<{_DATE}>",
            "VisuSubjectPosition": position,
        }
        visu = _visu_core(uid, geometry, stored) | subject | _visu_acquisition(geometry, protocol)
        _write_parameters(reco / "visu_pars", visu)
        _write_parameters(reco / "reco", _reco(uid, geometry, stored))
        _write_parameters(reco / "id", {"DATASET_KEY": _text(uid)})
        _write_parameters(scan / "method", _method(geometry, protocol, position))
        _write_parameters(scan / "acqp", _acqp(geometry, protocol, position, number))
    # Last: a study without its subject file is one that was not finished.
    _write_parameters(
        directory / "subject", _subject(subject_id, subject_type, position, study_uid)
    )
    return directory


@dataclass(frozen=True, eq=False)
class _Geometry:
    """A volume in ParaVision's patient frame.

    Parameters
    ----------
    size : tuple of int
        Matrix.
    spacing : (3,) ndarray
        Voxel edges in mm.
    directions : (3, 3) ndarray
        Row r is the direction of array axis r. A reflection stays one: the stored
        axis order is the volume's own.
    position : (3,) ndarray
        Centre of the first voxel, mm.
    """

    size: tuple[int, int, int]
    spacing: NDArray[np.float64]
    directions: NDArray[np.float64]
    position: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume, subject_type: str) -> _Geometry:
        affine: Affine = volume.affine
        to_patient = _RAS_OF_SUBJECT[subject_type].T
        columns = to_patient @ affine[:3, :3]
        spacing = np.linalg.norm(columns, axis=0)
        directions = (columns / spacing).T
        if np.abs(directions @ directions.T - np.eye(3)).max() > 1e-4:
            raise AffineError(
                f"{volume.provenance.path}: voxel axes are not at right angles, and "
                "ParaVision headers can not say so",
                hint="write NIfTI, or resample to orthogonal axes first",
            )
        return cls(volume.shape, spacing, directions, to_patient @ affine[:3, 3])

    @property
    def extent(self) -> NDArray[np.float64]:
        return self.spacing * self.size

    @property
    def centre(self) -> NDArray[np.float64]:
        return self.position + ((np.array(self.size) - 1) / 2 * self.spacing) @ self.directions

    @property
    def gradients(self) -> NDArray[np.float64]:
        """Gradient matrix: the same axes in the frame L to R, P to A, F to H."""
        return self.directions @ np.diag([-1.0, -1.0, 1.0])

    @property
    def offsets(self) -> NDArray[np.float64]:
        """Offsets of the centre along read, phase and slice."""
        return self.directions @ self.centre


@dataclass(frozen=True)
class _Stored:
    """How intensities become words: intensity = word * slope + offset.

    Parameters
    ----------
    word_type : str
        ParaVision's name of the word.
    slope, offset : float
        The mapping.
    low, high : float
        Least and largest intensity.
    """

    word_type: WordType
    slope: float
    offset: float
    low: float
    high: float

    @classmethod
    def of(cls, volume: Volume, word_type: WordType) -> _Stored:
        low, high = float(volume.data.min()), float(volume.data.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UsageError(f"{volume.provenance.path}: intensities are not all finite")
        slope, offset = 1.0, 0.0
        if word_type == "_8BIT_UNSGN_INT":
            slope, offset = (high - low) / 255 or 1.0, low
        elif word_type != "_32BIT_FLOAT":
            # One step short of the largest word, so that rounding can not overflow.
            top = np.iinfo(_WORD_DTYPE[word_type]).max - 1
            slope = max(abs(low), abs(high)) / top or 1.0
        return cls(word_type, slope, offset, low, high)

    def words(self, plane: NDArray[np.float32]) -> NDArray[Any]:
        """Intensities of one slice as the words to write."""
        dtype = _WORD_DTYPE[self.word_type]
        if dtype.kind == "f":
            return plane.astype(dtype)
        return np.rint((plane.astype(np.float64) - self.offset) / self.slope).astype(dtype)


def _check_names(
    subject_id: str,
    subject_type: str,
    position: str,
    scans: Sequence[tuple[int, Volume]],
    directory: Path,
) -> None:
    if (
        not 0 < len(subject_id) < 60
        or not subject_id.isprintable()
        or set(subject_id) & set("<>\\")
    ):
        raise UsageError(
            f"subject id {subject_id!r} does not fit a ParaVision header",
            hint="use 1 to 59 printable characters without < > and backslash",
        )
    if subject_type not in _RAS_OF_SUBJECT:
        raise UsageError(f"subject type {subject_type!r}; expected one of {list(_RAS_OF_SUBJECT)}")
    if position not in _POSITIONS:
        raise UsageError(f"subject position {position!r}; expected one of {list(_POSITIONS)}")
    numbers = [number for number, _ in scans]
    if not numbers or min(numbers) < 1 or len(set(numbers)) != len(numbers):
        raise UsageError(f"scan numbers {numbers}: expected different numbers from 1 on")
    for number in numbers:
        if (directory / str(number)).exists():
            raise UsageError(
                f"{directory / str(number)} exists already", hint="write to a new study folder"
            )


def _write_2dseq(path: Path, data: NDArray[np.float32], stored: _Stored) -> str:
    """Write the voxels, i fastest, and return their digest."""
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for k in range(data.shape[2]):
            block = stored.words(data[:, :, k]).tobytes(order="F")
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _uid(*parts: str) -> str:
    """DICOM identifier under the root for UUIDs, derived from its parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


# --- JCAMP-DX ---------------------------------------------------------------------


def _text(value: str, *, room: int = 65) -> str:
    """Format one string, with the room ParaVision reserves."""
    return f"( {room} )\n<{value}>"


def _texts(*values: str, room: int = 65) -> str:
    """Format an array of strings."""
    return f"( {len(values)}, {room} )\n" + " ".join(f"<{value}>" for value in values)


def _array(values: ArrayLike) -> str:
    """Format numbers with the shape of the array; 17 digits, so that nothing is lost."""
    array = np.asarray(values)
    shape = ", ".join(str(n) for n in array.shape)
    numbers = (f"{value:.17g}" for value in (array + 0.0).ravel().tolist())
    return f"( {shape} )\n" + " ".join(numbers)


def _symbols(*values: str) -> str:
    """Format an array of enumeration symbols or of structs."""
    return f"( {len(values)} )\n" + " ".join(values)


def _wrapped(line: str) -> str:
    """Break a line of values between values, as ParaVision does."""
    lines = [""]
    for word in line.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > _WIDTH:
            lines[-1] += " "
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def _write_parameters(path: Path, parameters: Mapping[str, str]) -> None:
    lines = [
        "##TITLE=Parameter List, ParaVision 6.0.1",
        "##JCAMPDX=4.24",
        "##DATATYPE=Parameter Values",
        "##ORIGIN=Bruker BioSpin MRI GmbH",
        "##OWNER=srmri",
        "$$ Simulated: written by srmri, not by a scanner",
    ]
    for key, value in parameters.items():
        head, _, body = value.partition("\n")
        # Strings stay on one line: a break inside one would change it.
        values = body if "<" in body else _wrapped(body)
        lines.append(f"##${key}={head}" + (f"\n{values}" if body else ""))
    write_text(path, "\n".join([*lines, "##END=", ""]))


# --- the files --------------------------------------------------------------------


def _visu_core(uid: str, geometry: _Geometry, stored: _Stored) -> dict[str, str]:
    thickness = _array([geometry.extent[2]])
    return {
        "VisuVersion": "3",
        "VisuUid": _text(uid),
        "VisuCreator": _text("ParaVision"),
        "VisuCreatorVersion": _text("6.0.1"),
        "VisuCreationDate": f"<{_DATE}>",
        "VisuInstanceModality": _text("MR"),
        "VisuCoreFrameCount": "1",
        "VisuCoreDim": "3",
        "VisuCoreSize": _array(geometry.size),
        "VisuCoreDimDesc": _symbols("spatial", "spatial", "spatial"),
        "VisuCoreExtent": _array(geometry.extent),
        # A 3-D scan is one slab: its thickness, and its distance to itself.
        "VisuCoreFrameThickness": thickness,
        "VisuCoreUnits": _texts("mm", "mm", "mm"),
        "VisuCoreOrientation": _array(geometry.directions.reshape(1, 9)),
        "VisuCorePosition": _array(geometry.position.reshape(1, 3)),
        "VisuCoreDataMin": _array([stored.low]),
        "VisuCoreDataMax": _array([stored.high]),
        "VisuCoreDataOffs": _array([stored.offset]),
        "VisuCoreDataSlope": _array([stored.slope]),
        "VisuCoreFrameType": _symbols("MAGNITUDE_IMAGE"),
        "VisuCoreSlicePacksDef": "(0, 1)",
        "VisuCoreSlicePacksSlices": _symbols("(0, 1)"),
        "VisuCoreSlicePacksSliceDist": thickness,
        "VisuCoreWordType": stored.word_type,
        "VisuCoreByteOrder": "littleEndian",
        "VisuCoreDiskSliceOrder": "disk_normal_slice_order",
    }


def _scan_time_ms(geometry: _Geometry, protocol: FlashProtocol) -> float:
    lines = geometry.size[1] * geometry.size[2]
    return protocol.repetition_time_ms * protocol.averages * lines


def _visu_acquisition(geometry: _Geometry, protocol: FlashProtocol) -> dict[str, str]:
    return {
        "VisuSeriesTypeId": _text("ACQ_BRUKER_PVM"),
        "VisuManufacturer": _text("srmri (simulated)"),
        "VisuAcqSoftwareVersion": _text("6.0.1"),
        "VisuInstitution": _text("none"),
        "VisuStation": _text("simulated"),
        "VisuAcqDate": f"<{_DATE}>",
        "VisuAcqEchoTrainLength": "1",
        "VisuAcqSequenceName": _text("Bruker:FLASH", room=40),
        "VisuAcqNumberOfAverages": str(protocol.averages),
        "VisuAcqImagingFrequency": f"{protocol.frequency_mhz:.17g}",
        "VisuAcqImagedNucleus": _text("1H", room=8),
        "VisuAcqRepetitionTime": _array([protocol.repetition_time_ms]),
        "VisuAcqEchoTime": _array([protocol.echo_time_ms]),
        "VisuAcqPhaseEncSteps": str(geometry.size[1]),
        "VisuAcqPixelBandwidth": f"{protocol.bandwidth_hz / geometry.size[0]:.17g}",
        "VisuAcqFlipAngle": f"{protocol.flip_angle_deg:.17g}",
        "VisuAcqSize": _array(geometry.size),
        "VisuAcqImageSizeAccellerated": "No",
        "VisuAcqGradEncoding": _symbols("read_enc", "phase_enc", "slice_enc"),
        "VisuAcquisitionProtocol": _text(protocol.name),
        "VisuAcqScanTime": f"{_scan_time_ms(geometry, protocol):.17g}",
        "VisuAcqAntiAlias": _array([1, 1, 1]),
        "VisuAcqEchoSequenceType": "GradientEcho",
        "VisuAcqIsEpiSequence": "No",
        "VisuAcqKSpaceTraversal": "RectilinearTraversal",
        "VisuAcqSpoiling": "GradientSpoiled",
        "VisuAcqPartialFourier": _array([1, 1, 1]),
        "VisuAcqParallelReductionFactor": _array([1, 1, 1]),
    }


def _reco(uid: str, geometry: _Geometry, stored: _Stored) -> dict[str, str]:
    return {
        "RECO_mode": "USER_MODE",
        "RecoDim": "3",
        "RecoObjectsPerRepetition": "1",
        "RecoNumRepetitions": "1",
        "RECO_inp_size": _array(geometry.size),
        "RECO_ft_size": _array(geometry.size),
        "RECO_fov": _array(geometry.extent / 10),
        "RECO_size": _array(geometry.size),
        "RECO_transposition": _array([0]),
        "RECO_image_type": "MAGNITUDE_IMAGE",
        "RECO_wordtype": stored.word_type,
        "RECO_map_mode": "ABSOLUTE_MAPPING",
        "RECO_map_offset": _array([stored.offset]),
        "RECO_map_slope": _array([1 / stored.slope]),
        "RECO_byte_order": "littleEndian",
        "RECO_time": f"<{_DATE}>",
        "RECO_base_image_uid": _text(uid),
    }


def _method(geometry: _Geometry, protocol: FlashProtocol, position: str) -> dict[str, str]:
    read, phase, slab = (_array([value]) for value in geometry.offsets)
    nearest = np.abs(geometry.directions).argmax(axis=1)
    return {
        "Method": _text("Bruker:FLASH", room=40),
        "PVM_StudyInstrumentPosition": position,
        "PVM_EchoTime": f"{protocol.echo_time_ms:.17g}",
        "PVM_RepetitionTime": f"{protocol.repetition_time_ms:.17g}",
        "PVM_NEchoImages": "1",
        "PVM_NAverages": str(protocol.averages),
        "PVM_NRepetitions": "1",
        "PVM_ScanTime": f"{_scan_time_ms(geometry, protocol):.17g}",
        "PVM_Nucleus1Enum": "<1H>",
        "PVM_EffSWh": f"{protocol.bandwidth_hz:.17g}",
        "PVM_SpatDimEnum": "<3D>",
        "PVM_Matrix": _array(geometry.size),
        "PVM_AntiAlias": _array([1, 1, 1]),
        "PVM_EncMatrix": _array(geometry.size),
        "PVM_Fov": _array(geometry.extent),
        "PVM_FovCm": _array(geometry.extent / 10),
        "PVM_SpatResol": _array(geometry.spacing),
        "PVM_SliceThick": f"{geometry.extent[2]:.17g}",
        "PVM_NSPacks": "1",
        "PVM_SPackArrNSlices": _array([1]),
        "PVM_SPackArrSliceOrient": _symbols(_SLICE_ORIENT[nearest[2]]),
        "PVM_SPackArrReadOrient": _symbols(_READ_ORIENT[nearest[0]]),
        "PVM_SPackArrReadOffset": read,
        "PVM_SPackArrPhase1Offset": phase,
        "PVM_SPackArrPhase2Offset": _array([0]),
        "PVM_SPackArrSliceOffset": slab,
        "PVM_SPackArrSliceGap": _array([0]),
        "PVM_SPackArrSliceDistance": _array([geometry.extent[2]]),
        "PVM_SPackArrGradOrient": _array(geometry.gradients.reshape(1, 3, 3)),
    }


def _acqp(
    geometry: _Geometry, protocol: FlashProtocol, position: str, number: int
) -> dict[str, str]:
    read, phase, slab = (_array([value]) for value in geometry.offsets)
    return {
        "PULPROG": _text("FLASH.ppg", room=32),
        "ACQ_experiment_mode": "SingleExperiment",
        "ACQ_dim": "3",
        "ACQ_dim_desc": _symbols("Spatial", "Spatial", "Spatial"),
        "ACQ_size": _array(np.array(geometry.size) * [2, 1, 1]),
        "NI": "1",
        "NA": str(protocol.averages),
        "NR": "1",
        "SW_h": f"{protocol.bandwidth_hz:.17g}",
        "BF1": f"{protocol.frequency_mhz:.17g}",
        "NUCLEUS": _text("1H", room=8),
        "ACQ_protocol_name": _text(protocol.name, room=64),
        "ACQ_scan_name": _text(f"{protocol.name} (E{number})", room=64),
        "ACQ_method": _text("Bruker:FLASH", room=40),
        "ACQ_word_size": "_32_BIT",
        "NECHOES": "1",
        "ACQ_fov": _array(geometry.extent / 10),
        "ACQ_patient_pos": position,
        "ACQ_read_offset": read,
        "ACQ_phase1_offset": phase,
        "ACQ_phase2_offset": _array([0]),
        "ACQ_slice_sepn": _array([geometry.extent[2]]),
        "ACQ_slice_thick": f"{geometry.extent[2]:.17g}",
        "ACQ_slice_offset": slab,
        "ACQ_obj_order": _array([0]),
        "ACQ_flip_angle": f"{protocol.flip_angle_deg:.17g}",
        "ACQ_echo_time": _array([protocol.echo_time_ms]),
        "ACQ_repetition_time": _array([protocol.repetition_time_ms]),
        "ACQ_time": f"<{_DATE}>",
        "ACQ_sw_version": _text("PV 6.0.1"),
        "BYTORDA": "little",
        "ACQ_grad_matrix_size": "1",
        "ACQ_grad_matrix": _array(geometry.gradients.reshape(1, 3, 3)),
        "NSLICES": "1",
    }


def _subject(subject_id: str, subject_type: str, position: str, study_uid: str) -> dict[str, str]:
    entry, _, side = position.partition("_")
    return {
        "SUBJECT_version_nr": "1",
        "SUBJECT_id": _text(subject_id, room=60),
        "SUBJECT_instance_uid": _text(_uid("subject", subject_id)),
        "SUBJECT_instance_creation_date": _ABS_TIME,
        "SUBJECT_name_string": _text(subject_id, room=64),
        "SUBJECT_type": subject_type,
        "SUBJECT_sex_animal": "UNKNOWN",
        "SUBJECT_study_name": _text(subject_id, room=64),
        "SUBJECT_study_nr": "1",
        "SUBJECT_study_instance_uid": _text(study_uid),
        "SUBJECT_entry": f"SUBJ_ENTRY_{entry}First",
        "SUBJECT_position": f"SUBJ_POS_{side}",
        "SUBJECT_date": f"<{_DATE}>",
    }
