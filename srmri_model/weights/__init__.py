"""The model that comes with the package; MODEL_CARD.md tells what it is and is not for."""

from __future__ import annotations

from pathlib import Path

from srmri_data.errors import CheckpointError, UsageError
from srmri_data.safe_io import sha256_file

NAME = "mouse-t2w"
"""What it knows: brains of mice, T2-weighted, at 0.15 mm."""
SHA256 = "a48f3aa9401f88cd8f6a7e46a6ab4ad4c3b538039ce9537f26b4388d03d735d0"
"""Of its file."""
FOLDER = Path(__file__).resolve().parent


def bundled_weights() -> Path:
    """Return the checkpoint that comes with the package.

    Returns
    -------
    Path
        The file, as it was published.

    Raises
    ------
    UsageError
        If this installation has none.
    CheckpointError
        If it is another file than was published.
    """
    path = FOLDER / f"{NAME}.safetensors"
    if not path.is_file():
        raise UsageError(
            "--weights is missing, and no model comes with this installation",
            hint="give model.safetensors of a run of srmri train",
        )
    if (found := sha256_file(path)) != SHA256:
        raise CheckpointError(
            f"{path}: SHA-256 {found[:12]}… is not that of the bundled model, {SHA256[:12]}…",
            hint="reinstall srmri, or give another model with --weights",
        )
    return path
