"""Studies full of things that identify, and a reader that unpacks everything to look for them."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from export_runs import blob, make_run
from PIL import Image, PngImagePlugin

from srmri_data.review_merge import decide_at_terminal
from srmri_data.run_folder import read_pairs

# Text records that ParaVision writes; each gets a token of its own.
_words = str.split
_VISU_KEYS = _words("""
VisuSubjectName VisuSubjectUid VisuSubjectComment VisuSubjectSex VisuStudyId VisuStudyUid
VisuStudyDescription VisuStudyReferringPhysician VisuSeriesComment VisuSeriesTypeId VisuInstitution
VisuStation VisuSystemOrderNumber VisuManufacturer VisuCreator VisuCreatorVersion VisuUid
VisuAcquisitionProtocol VisuAcqSequenceName VisuAcqSoftwareVersion VisuCoilReceiveName
VisuCoilReceiveManufacturer VisuCoilTransmitName VisuCoilTransmitType VisuInstanceModality
VisuSubjectInstanceCreationDate VisuProtocolName VisuAcqScanName VisuOperator VisuCoreDataUnits
""")
_SUBJECT_KEYS = _words("""
SUBJECT_name_string SUBJECT_name SUBJECT_comment SUBJECT_study_name SUBJECT_study_comment
SUBJECT_purpose SUBJECT_referral SUBJECT_study_instance_uid SUBJECT_entry SUBJECT_dosage SUBJECT_sex
SUBJECT_weight_note SUBJECT_owner
""")
_ACQP_KEYS = _words("""
ACQ_institution ACQ_station ACQ_operator ACQ_scan_name ACQ_protocol_name ACQ_method
ACQ_completed_by ACQ_comment ACQ_user_filter ACQ_sw_version
""")
_MONTHS = _words("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec")


class Canaries:
    """Tokens of one study, remembered with the place they were put."""

    def __init__(self, study: int) -> None:
        self.study = study
        self.placed: dict[str, str] = {}

    def token(self, place: str) -> str:
        """Return a new word that stands nowhere else."""
        word = f"Cnry{self.study:03d}x{len(self.placed):03d}Q"
        self.placed[word] = place
        return word

    def known(self, text: str, place: str) -> str:
        """Remember a text that is a canary as it is, such as a date."""
        self.placed[text] = place
        return text


def six_dates(study: int) -> list[str]:
    """One day in six ways of writing it; another day for every study."""
    year, month, day = 2005 + study % 20, 1 + study % 12, 10 + study // 20
    name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][
        month - 1
    ]
    return [
        f"{year}-{month:02d}-{day:02d}T12:01:02,000+0100",
        f"{year}{month:02d}{day:02d}",
        f"{day:02d}/{month:02d}/{year}",
        f"{day}.{month}.{year}",
        f"12:01:02  {day} {name} {year}",
        f"{name} {day}, {year}",
    ]


def _record(key: str, value: str) -> str:
    return f"##${key}=( 65 )\n<{value}>\n"


def _spoil_jcamp(path: Path, keys: list[str], canaries: Canaries, **further: str) -> None:
    """Give every key a token, and the file the comments a scanner writes."""
    name = path.name
    text = path.read_text(encoding="utf-8")
    values = {key: canaries.token(f"{name} {key}") for key in keys} | further
    for key, value in values.items():
        prefix = "Bruker:" if key == "VisuAcqSequenceName" else ""
        text = re.sub(rf"^##\${key}=.*?(?=^##|^\$\$)", "", text, flags=re.M | re.S)
        text = text.replace("##END=", _record(key, prefix + value) + "##END=")
    for header in ("ORIGIN", "OWNER"):
        text = re.sub(rf"^##{header}=.*$", f"##{header}={canaries.token(name)}", text, flags=re.M)
    user, host = canaries.token(f"{name} user"), canaries.token(f"{name} host")
    comments = f"$$ {user}@{host}\n$$ /opt/PV6.0.1/data/{canaries.token(name)}/nmr/x\n"
    path.write_text(text.replace("##$", comments + "##$", 1), encoding="utf-8")


def spoiled_run(root: Path, study: int) -> tuple[Path, Path, Canaries]:
    """Return a reviewed run, a further HR scan as NIfTI, and what is hidden in them."""
    canaries = Canaries(study)
    subject = canaries.token("subject")
    place = root / canaries.token("folder")

    def spoil(folder: Path) -> None:
        dates = [canaries.known(text, "date") for text in six_dates(study)]
        uid = canaries.known(f"1.3.12.2.1107.5.{study}.43.66044", "uid")
        for visu in sorted(folder.rglob("visu_pars")):
            _spoil_jcamp(visu, _VISU_KEYS, canaries, VisuSeriesUid=uid, VisuAcqDate=dates[0],
                         VisuStudyDate=dates[4], VisuSubjectBirthDate=dates[1])  # fmt: skip
        for acqp in sorted(folder.rglob("acqp")):
            _spoil_jcamp(acqp, _ACQP_KEYS, canaries, ACQ_time=dates[4], ACQ_abs_time=dates[5])
        _spoil_jcamp(folder / "subject", _SUBJECT_KEYS, canaries, SUBJECT_date=dates[2],
                     SUBJECT_dbirth=dates[3])  # fmt: skip

    run = make_run(place, subject, study, before=spoil)
    first = int(read_pairs(run)["lr_slice"].iloc[0])
    reviewer = canaries.token("reviewer")
    decide_at_terminal(
        run, f"{first}=3", reviewer=reviewer, note=f"says {canaries.token('note')}"
    )  # fmt: skip
    _spoil_nifti(run / "hr_aligned.nii.gz", canaries)
    document = json.loads((run / "provenance.json").read_text())
    document["command"] = ["srmri", canaries.token("command")]
    (run / "provenance.json").write_text(json.dumps(document))
    alone = root / f"{canaries.token('file')}.nii.gz"
    volume = blob(1000 + study)
    image = nib.Nifti1Image(volume.data, volume.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, alone)
    _spoil_nifti(alone, canaries)
    return run, alone, canaries


def _spoil_nifti(path: Path, canaries: Canaries) -> None:
    """Write texts into every field of the header, an extension and the gzip header."""
    with gzip.open(path) as stream:
        content = bytearray(stream.read())
    for start, size in ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16)):
        token = canaries.token(f"{path.name} header at {start}").encode()
        if len(token) <= size:
            content[start : start + len(token)] = token
    offset = int(np.frombuffer(content[108:112], "<f4")[0])
    note = canaries.token(f"{path.name} extension").encode().ljust(56, b"\0")
    extension = b"\1\0\0\0" + np.array([64, 6], "<i4").tobytes() + note
    content[108:112] = np.array(offset + 64, "<f4").tobytes()
    content[348:offset] = extension
    inner = canaries.token(f"{path.name} gzip name")
    with open(path, "wb") as file, gzip.GzipFile(inner, "wb", 1, file, mtime=1704454800) as stream:
        stream.write(content)


def publish_as_it_is(run: Path, alone: Path, out: Path, canaries: Canaries) -> None:
    """What a laboratory would put on the net that does not de-identify."""
    out.mkdir(parents=True)
    study = next(p for p in run.parent.iterdir() if (p / "subject").is_file())
    with zipfile.ZipFile(out / f"{study.name}.zip", "w") as archive:
        for file in sorted(p for p in study.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(run.parent.parent))
    for name in ("hr_aligned.nii.gz", "provenance.json"):
        (out / name).write_bytes((run / name).read_bytes())
    (out / alone.name).write_bytes(alone.read_bytes())
    reviewer, note = (
        next(t for t, p in canaries.placed.items() if p == kind) for kind in ("reviewer", "note")
    )
    (out / "reviews.jsonl").write_text(json.dumps({"reviewer": reviewer, "note": f"says {note}"}))
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", canaries.token("PNG text"))
    info.add_text("Comment", canaries.token("PNG compressed text"), zip=True)
    png = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(png, "PNG", pnginfo=info)
    table = pa.table({"image": [png.getvalue()], "operator": [canaries.token("column")]})
    table = table.replace_schema_metadata({"lab": canaries.token("Parquet metadata")})
    pq.write_table(table, out / "rows.parquet")


def unpacked(path: Path) -> Iterator[bytes]:
    """Names and contents of all files, and what is packed in them; not srmri's own reader."""
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        yield file.relative_to(path).as_posix().encode()
        yield from _inside(file.read_bytes())


def _inside(content: bytes) -> Iterator[bytes]:
    yield content
    if content[:2] == b"\x1f\x8b":
        yield from _inside(gzip.decompress(content))
    elif content[:4] == b"PK\3\4":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from _inside(archive.read(name))
    elif content[:4] == b"\x89PNG":
        image = Image.open(io.BytesIO(content))
        image.load()
        yield repr(image.info).encode()
        yield np.asarray(image).tobytes()
    elif content[:4] == b"PAR1":
        file = pq.ParquetFile(io.BytesIO(content))
        yield repr(file.metadata.metadata).encode()
        for column in file.read().columns:
            yield from _values(column.to_pylist())


def _values(values: object) -> Iterator[bytes]:
    if isinstance(values, dict):
        yield from _values(list(values.values()))
    elif isinstance(values, list):
        for value in values:
            yield from _values(value)
    elif isinstance(values, bytes):
        yield from _inside(values)
    elif values is not None:
        yield str(values).encode()
