"""A small staged dataset: what `srmri export-hf` makes, in miniature and in a moment."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import numpy as np

CARD = """---
license: {license}
pretty_name: Tiny pairs
task_categories:
- image-to-image
size_categories:
- n<1K
configs:
- config_name: pairs
  default: true
  data_files:
  - split: train
    path: data/pairs/train-*.parquet
  - split: test
    path: data/pairs/test-*.parquet
- config_name: slices_hr
  data_files:
  - split: train
    path: data/slices_hr/train-*.parquet
---
# Tiny pairs

Version {version}. Made by a test.
"""


def png16(pixels: np.ndarray) -> bytes:
    """Return 16-bit pixels as PNG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_rows(path: Path, rng: np.random.Generator, n: int, *names: str) -> None:
    """Write a parquet file with image columns as `datasets` stores them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features, Image, Value

    pictures = {
        name: [
            {"bytes": png16(rng.integers(0, 65536, (12, 10), dtype=np.uint16)), "path": None}
            for _ in range(n)
        ]
        for name in names
    }
    features = Features(
        {"pair_id": Value("string"), "confidence": Value("float64")}
        | {name: Image() for name in names}
    )
    table = pa.table(
        {"pair_id": [f"s{i:010d}_01_lr" for i in range(n)], "confidence": rng.random(n)} | pictures,
        schema=features.arrow_schema,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_volume(path: Path, rng: np.random.Generator) -> None:
    """Write a NIfTI file whose gzip header says nothing."""
    import nibabel as nib

    affine = np.diag([-0.1, 0.1, 0.5, 1.0])
    affine[:3, 3] = rng.normal(size=3)
    image = nib.Nifti1Image(rng.integers(0, 30000, (6, 5, 4), dtype=np.int16), affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def seal(folder: Path) -> None:
    """Write `checksums.sha256` over whatever is in the folder."""
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n"
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "checksums.sha256"
    ]
    (folder / "checksums.sha256").write_text("".join(lines), encoding="utf-8")


def write_staged(
    folder: Path,
    *,
    seed: int = 0,
    version: str = "1",
    license: str = "cc-by-4.0",
) -> Path:
    """Write a staged dataset of three subjects; a name has all that names can have."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    card = CARD.format(version=version, license=license)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "splits.json").write_text(
        '{"train": ["s0123456781", "s0123456782"], "test": ["s0123456783"]}\n'
    )
    write_rows(folder / "data/pairs/train-00000-of-00002.parquet", rng, 3, "lr", "hr")
    write_rows(folder / "data/pairs/train-00001-of-00002.parquet", rng, 2, "lr", "hr")
    write_rows(folder / "data/pairs/test-00000-of-00001.parquet", rng, 2, "lr", "hr")
    write_rows(folder / "data/slices_hr/train-00000-of-00001.parquet", rng, 4, "image")
    write_volume(folder / "volumes/sub-s1_T2starw.nii.gz", rng)
    write_volume(folder / "volumes/sub-Mäuschen #3 100%+b_T2starw.nii.gz", rng)
    (folder / "reviews.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    seal(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes by its name in the repository."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
