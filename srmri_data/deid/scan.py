"""Look into every byte of a folder for what identifies a person, a laboratory or a machine.

Whatever is compressed or packed is opened: gzip and zip, PNG, Parquet, NIfTI with its extensions,
tar. A value of a table or document that is neither a number nor known to be harmless is reported,
too: what nobody can vouch for does not leave.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from srmri_data.deid.words import (
    IDENTITY_KEY,
    identifiers_in,
    is_harmless,
    of_this_machine,
    telling,
)
from srmri_data.errors import MissingInputError
from srmri_data.png import decode_grey

_MAX_DEPTH = 6
_MAX_BYTES = 2 << 30
_SHOWN = 120
# Shorter names turn up in gigabytes of noise by chance.
_IN_PIXELS = 8
_PAIRS = 1 << 20
_PLAIN_PNG_CHUNKS = frozenset(
    (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD")
)
_KNOWN_PARQUET_KEYS = frozenset((b"huggingface", b"ARROW:schema", b"pandas"))
# Written for people, in whole sentences: looked at by pattern, not word by word.
_PROSE = frozenset(
    (
        *("README.md", "README", "CHANGES", "LICENSE", "croissant.json", ".bidsignore"),
        "dataset_description.json",
    )
)
_PROSE_KEYS = frozenset(("species", "Description", "LongName", "Units", "Levels", "License"))
# What the readers of these formats raise when a file is not what it says.
_DAMAGE = (
    *(zlib.error, EOFError, OSError, ValueError, SyntaxError, struct.error),
    *(zipfile.BadZipFile, tarfile.TarError, Image.DecompressionBombError),
)
_NIFTI_TEXTS = {
    "data_type": (4, 14),
    "db_name": (14, 32),
    "descrip": (148, 228),
    "aux_file": (228, 252),
    "intent_name": (328, 344),
}


@dataclass(frozen=True)
class Finding:
    """Something that identifies, or that nobody vouches for.

    Parameters
    ----------
    file : str
        Where, from the scanned folder; what was unpacked follows a ``!``.
    place : str
        Field, chunk, column or line.
    kind : str
        ``date``, ``path``, ``uid``, ``e-mail``, ``network``, ``host``, ``name``, ``telephone``,
        ``secret``, ``known`` (a name that was given), ``field`` (one that says who, where or
        when), ``header`` (of a container), or ``unknown`` (a text of no known kind).
    text : str
        What was found, shortened.
    """

    file: str
    place: str
    kind: str
    text: str

    @property
    def level(self) -> Literal["identifies", "unknown"]:
        """Whether it identifies, or nobody can vouch for it."""
        return "unknown" if self.kind == "unknown" else "identifies"


@dataclass(frozen=True)
class ScanReport:
    """What a scan looked at and found.

    Parameters
    ----------
    files : int
        Files that were opened, packed ones included.
    bytes : int
        Bytes that were looked at, after unpacking.
    findings : tuple of Finding
        In the order of the files.
    """

    files: int
    bytes: int
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-able values.

        Returns
        -------
        dict
            ``files``, ``bytes`` and ``findings``.
        """
        found = [{**asdict(f), "level": f.level} for f in self.findings]
        return {"files": self.files, "bytes": self.bytes, "findings": found}


def scan_phi(path: Path, *, known: Collection[str] = ()) -> ScanReport:
    """Scan a file or folder.

    Parameters
    ----------
    path : Path
        What is to be published.
    known : collection of str
        Names to look for everywhere, pixels included; this machine's own are always among them.

    Returns
    -------
    ScanReport
        Empty of findings when it may be published.

    Raises
    ------
    MissingInputError
        If there is no such path.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"{path}: no such file or folder")
    scan = _Scan({*known, *of_this_machine()})
    if path.is_file():
        scan.file(path.name, path.read_bytes())
    else:
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            name = file.relative_to(path).as_posix()
            scan.text(name, "name of the file", name, vouched=True)
            if file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
                scan.note(name, "link", "path", str(file.resolve()))
                continue
            scan.file(name, file.read_bytes())
    return ScanReport(scan.files, scan.bytes, tuple(dict.fromkeys(scan.findings)))


class _Needles:
    """Finds texts among gigabytes that hold none of them, all texts in one pass.

    Wherever a text stands, at an even place or an odd one, three pairs of its first seven bytes
    stand next to each other at even places. Only where they do is it looked for.
    """

    def __init__(self, words: Collection[str]) -> None:
        self._words = [(word, word.encode()) for word in words if len(word) >= _IN_PIXELS]
        self._pairs = np.zeros((3, 1 << 16), dtype=bool)
        for _, needle in self._words:
            for start in range(6):
                pair = np.frombuffer(needle[start : start + 2], dtype=np.uint16)
                self._pairs[start // 2, pair] = True

    def found_in(self, content: bytes) -> list[str]:
        if not self._may_be_in(content):
            return []
        return [word for word, needle in self._words if needle in content]

    def _may_be_in(self, content: bytes) -> bool:
        pairs = np.frombuffer(content, dtype=np.uint16, count=len(content) // 2)
        for start in range(0, len(pairs), _PAIRS):
            part = pairs[start : start + _PAIRS + 2]
            at = np.flatnonzero(self._pairs[0][part])
            for number in (1, 2):
                at = at[at + number < len(part)]
                at = at[self._pairs[number][part[at + number]]]
            if at.size:
                return True
        return False


class _Scan:
    """The state of a scan: what to look for, and what was found."""

    def __init__(self, known: Collection[str]) -> None:
        words = telling(known)
        listed = "|".join(map(re.escape, words))
        # Not inside a longer word: a hash may hold anything.
        self.known = re.compile(rf"(?<![^\W_])(?:{listed})(?![^\W_])", re.I) if words else None
        self.needles = _Needles(words)
        self.findings: list[Finding] = []
        self.files = 0
        self.bytes = 0

    def note(self, file: str, place: str, kind: str, text: str) -> None:
        shown = " ".join(text.split())
        self.findings.append(Finding(file, place, kind, shown[:_SHOWN]))

    def text(self, file: str, place: str, text: str, *, vouched: bool = False) -> None:
        """Look at one text; `vouched` for prose, whose words are not looked up one by one."""
        hits = identifiers_in(text)
        if self.known is not None:
            hits += [("known", match[0]) for match in self.known.finditer(text)]
        for kind, found in hits:
            self.note(file, place, kind, found)
        if not hits and not vouched and not is_harmless(text):
            kind = "field" if IDENTITY_KEY.search(place) else "unknown"
            self.note(file, place, kind, text)

    def raw(self, file: str, place: str, content: bytes) -> None:
        for word in self.needles.found_in(content):
            self.note(file, place, "known", word)

    def file(self, name: str, content: bytes, depth: int = 0) -> None:
        """Look into a file by what it holds, not by what it is called."""
        self.files += 1
        self.bytes += len(content)
        if depth > _MAX_DEPTH:
            self.note(name, "nesting", "header", f"packed more than {_MAX_DEPTH} times")
            return
        self.raw(name, "bytes", content)
        try:
            self._by_kind(name, content, depth)
        except _DAMAGE as error:
            self.note(name, "content", "unknown", f"can not be looked into: {error}")

    def _by_kind(self, name: str, content: bytes, depth: int) -> None:
        if content[:2] == b"\x1f\x8b":
            self._gzip(name, content, depth)
        elif content[:4] == b"PK\x03\x04":
            self._zip(name, content, depth)
        elif content[:8] == b"\x89PNG\r\n\x1a\n":
            self._png(name, content)
        elif content[:4] == b"PAR1":
            self._parquet(name, content, depth)
        elif content[257:262] == b"ustar":
            self._tar(name, content, depth)
        elif content[344:347] in (b"n+1", b"ni1") or content[4:7] in (b"n+2", b"ni2"):
            self._nifti(name, content)
        elif content[128:132] == b"DICM" or content[:15] == b"SQLite format 3":
            what = "DICOM header" if content[128:132] == b"DICM" else "database"
            self.note(name, "format", "header", f"a {what} names people and times")
            self._strings(name, content)
        else:
            self._text_file(name, content)

    def _gzip(self, name: str, content: bytes, depth: int) -> None:
        flags, when = content[3], int.from_bytes(content[4:8], "little")
        position = 10
        if when:
            self.note(name, "gzip header", "date", f"time {when}")
        if flags & 4:
            size = int.from_bytes(content[position : position + 2], "little")
            extra = content[position + 2 : position + 2 + size]
            self.note(name, "gzip header", "header", f"extra field {extra[:60]!r}")
            position += 2 + size
        for flag, what in ((8, "file name"), (16, "comment")):
            if flags & flag:
                end = content.index(b"\0", position)
                found = _latin(content[position:end])
                self.note(name, "gzip header", "header", f"{found} ({what})")
                position = end + 1
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            unpacked = stream.read(_MAX_BYTES + 1)
        self._inner(f"{name}!", unpacked, depth)

    def _inner(self, name: str, content: bytes, depth: int) -> None:
        if len(content) > _MAX_BYTES:
            self.note(name, "size", "unknown", f"more than {_MAX_BYTES} bytes when unpacked")
        else:
            self.file(name, content, depth + 1)

    def _zip(self, name: str, content: bytes, depth: int) -> None:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.comment:
                self.note(name, "zip comment", "header", _latin(archive.comment))
            for member in archive.infolist():
                inside = f"{name}!{member.filename}"
                self.text(inside, "name of the file", member.filename, vouched=True)
                if member.date_time != (1980, 1, 1, 0, 0, 0):
                    self.note(inside, "zip entry", "date", str(member.date_time))
                for what, found in (("comment", member.comment), ("extra field", member.extra)):
                    if found:
                        self.note(inside, "zip entry", "header", f"{_latin(found)} ({what})")
                with archive.open(member) as stream:
                    self._inner(inside, stream.read(_MAX_BYTES + 1), depth)

    def _tar(self, name: str, content: bytes, depth: int) -> None:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                inside = f"{name}!{member.name}"
                self.text(inside, "name of the file", member.name, vouched=True)
                if member.mtime:
                    self.note(inside, "tar entry", "date", f"time {member.mtime}")
                for owner in (member.uname, member.gname):
                    if owner:
                        self.note(inside, "tar entry", "header", f"{owner} (owner)")
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    self._inner(inside, stream.read(_MAX_BYTES + 1), depth)

    def _png(self, name: str, content: bytes) -> None:
        position = 8
        while position + 8 <= len(content):
            size = int.from_bytes(content[position : position + 4], "big")
            kind = content[position + 4 : position + 8]
            body = content[position + 8 : position + 8 + size]
            position += 12 + size
            if kind not in _PLAIN_PNG_CHUNKS:
                self._png_chunk(name, kind, body)
            if kind == b"IEND":
                break
        if content[position:]:
            self.note(name, "after the end of the PNG", "header", _latin(content[position:]))
        pixels = decode_grey(content).tobytes()
        self.bytes += len(pixels)
        self.raw(name, "pixels", pixels)

    def _png_chunk(self, name: str, kind: bytes, body: bytes) -> None:
        place = f"PNG {_latin(kind)}"
        parts = [body]
        if kind in (b"zTXt", b"iCCP"):
            keyword, _, packed = body.partition(b"\0")
            parts = [keyword, zlib.decompressobj().decompress(packed[1:], _MAX_BYTES)]
        elif kind == b"iTXt":
            keyword, _, rest = body.partition(b"\0")
            language, translated, text = rest[2:].split(b"\0", 2)
            if rest[:1] == b"\1":
                text = zlib.decompressobj().decompress(text, _MAX_BYTES)
            parts = [keyword, language, translated, text]
        shown = " ".join(_latin(part).replace("\0", " ") for part in parts if part)
        self.raw(name, place, b" ".join(parts))
        self.note(name, place, "header", shown)

    def _nifti(self, name: str, content: bytes) -> None:
        second = content[4:7] in (b"n+2", b"ni2")
        size = 540 if second else 348
        fields = {"descrip": (240, 320), "aux_file": (320, 344), "intent_name": (508, 524)}
        for field, (start, stop) in (fields if second else _NIFTI_TEXTS).items():
            text = _latin(content[start:stop].split(b"\0")[0])
            if text:
                self.note(name, f"NIfTI {field}", "field", text)
            elif any(content[start:stop]):
                self.note(name, f"NIfTI {field}", "field", _latin(content[start:stop].strip(b"\0")))
        endian = "<" if struct.unpack("<i", content[:4])[0] == size else ">"
        if second:
            offset = struct.unpack(f"{endian}q", content[168:176])[0]
        else:
            offset = int(struct.unpack(f"{endian}f", content[108:112])[0])
        between = content[size + 4 : max(size + 4, offset)]
        if any(between):
            self.note(name, "NIfTI extension", "header", _latin(between))

    def _parquet(self, name: str, content: bytes, depth: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(io.BytesIO(content))
            for key, value in (file.metadata.metadata or {}).items():
                if key not in _KNOWN_PARQUET_KEYS:
                    shown = f"{_latin(key)} = {_latin(value)}"
                    self.note(name, "Parquet metadata", "header", shown)
                elif key != b"ARROW:schema":
                    self.text(name, f"Parquet metadata {_latin(key)}", _latin(value), vouched=True)
            for column in file.schema_arrow.names:
                self.text(name, "name of a column", column, vouched=True)
            for field in file.schema_arrow:
                for key, value in (field.metadata or {}).items():
                    if not key.startswith(b"PARQUET:"):
                        shown = f"{_latin(key)} = {_latin(value)}"
                        self.note(name, f"metadata of {field.name}", "header", shown)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                for column in table.column_names:
                    where = f"{name}!{column}"
                    for value in _leaves(table[column].to_pylist()):
                        self._cell(where, column, value, depth)
        except pa.ArrowException as error:
            raise ValueError(error) from error

    def _cell(self, file: str, column: str, value: Any, depth: int) -> None:
        if isinstance(value, bytes):
            self.file(file, value, depth + 1)
        elif isinstance(value, str):
            self.text(file, column, value, vouched=column in _PROSE_KEYS)
        elif not isinstance(value, bool | int | float | None):
            self.text(file, column, str(value))

    def _text_file(self, name: str, content: bytes) -> None:
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            self._strings(name, content)
            return
        base = name.rstrip("!").rsplit("/", 1)[-1].rsplit("!", 1)[-1]
        if text.startswith("##") and re.search(r"^##\$?\w+=", text, re.M):
            self._jcamp(name, text)
        elif base in _PROSE or base.endswith((".md", ".txt", ".sha256")):
            for number, line in enumerate(text.splitlines(), start=1):
                self.text(name, f"line {number}", line, vouched=True)
        elif base.endswith((".tsv", ".csv")):
            self._table(name, text, "\t" if base.endswith(".tsv") else ",")
        elif not self._json(name, text):
            for number, line in enumerate(text.splitlines(), start=1):
                self.text(name, f"line {number}", line)

    def _json(self, name: str, text: str) -> bool:
        """Look through a JSON document, or one of JSON lines; tell whether it was one."""
        try:
            documents = [json.loads(text)]
        except json.JSONDecodeError:
            try:
                documents = [json.loads(line) for line in text.splitlines() if line.strip()]
            except json.JSONDecodeError:
                return False
        for place, value in (entry for doc in documents for entry in _named_leaves(doc)):
            key = place.rsplit(".", 1)[-1]
            self.text(name, "key", key, vouched=True)
            if isinstance(value, str):
                self.text(name, place, value, vouched=bool(_PROSE_KEYS & set(place.split("."))))
        return True

    def _table(self, name: str, text: str, separator: str) -> None:
        rows = list(csv.reader(io.StringIO(text), delimiter=separator))
        for column in rows[0] if rows else []:
            self.text(name, "name of a column", column, vouched=True)
        for number, row in enumerate(rows[1:], start=2):
            for column, value in zip(rows[0], row, strict=False):
                vouched = column in _PROSE_KEYS
                self.text(name, f"row {number}, {column}", value, vouched=vouched)

    def _jcamp(self, name: str, text: str) -> None:
        """Look at every value of a ParaVision parameter file; its comments name user and place."""
        for comment in re.findall(r"^\$\$.*$", text, re.M):
            self.note(name, "comment", "field", comment)
        body = re.sub(r"^\$\$.*$", "", text, flags=re.M)
        for record in re.split(r"^##", body, flags=re.M)[1:]:
            key, _, value = record.partition("=")
            place = f"##{key.strip()}"
            strings = re.findall(r"<([^>]*)>", value)
            bare = re.findall(r"[^\W\d]\w{2,}", re.sub(r"<[^>]*>", "", value))
            for kind, found in identifiers_in(value):
                self.note(name, place, kind, found)
            for found in [*strings, *bare]:
                if not is_harmless(found):
                    kind = "field" if IDENTITY_KEY.search(place) else "unknown"
                    self.note(name, place, kind, found)

    def _strings(self, name: str, content: bytes) -> None:
        """Look at what is legible between bytes that are not; noise spells short words."""
        for run in re.findall(rb"[\x20-\x7e]{12,}", content):
            self.text(name, "bytes", _latin(run), vouched=True)


def _latin(content: bytes) -> str:
    return content.decode("latin-1")


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def _named_leaves(document: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _named_leaves(value, f"{place}.{key}" if place else str(key))
    elif isinstance(document, list):
        for value in document:
            yield from _named_leaves(value, place)
    else:
        yield place, document
