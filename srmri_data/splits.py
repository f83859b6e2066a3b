"""Which subject goes to which split: by subject, the same every time, tests kept apart."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from srmri_data.dataset_schema import SPLITS, Split
from srmri_data.errors import FormatError, SplitError
from srmri_data.safe_io import read_json

_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.1


def assign_splits(
    paired: Collection[str],
    unpaired: Collection[str] = (),
    *,
    given: Mapping[str, Split] | None = None,
) -> tuple[dict[str, Split], list[str]]:
    """Give every subject a split.

    Parameters
    ----------
    paired : collection of str
        Subjects with LR-HR pairs.
    unpaired : collection of str
        Subjects with HR slices alone: they can only be trained on.
    given : mapping of str to split, optional
        What is settled already, for instance by an earlier version of the dataset.

    Returns
    -------
    splits : dict
        Every subject's split, by name. A fifth of the subjects is for testing and a tenth for
        validation, at least one each from three subjects on; two subjects give no validation,
        one goes to `train`.
    warnings : list of str
        What to know about the result.

    Examples
    --------
    >>> splits, _ = assign_splits(["a", "b", "c", "d"], ["e"])
    >>> sorted(splits.values())
    ['test', 'train', 'train', 'train', 'validation']
    >>> assign_splits(["a"])[0]
    {'a': 'train'}
    """
    warnings = []
    splits: dict[str, Split] = {s: v for s, v in (given or {}).items() if s in {*paired, *unpaired}}
    if splits:
        new = sorted({*paired, *unpaired} - set(splits))
        warnings += [f"{subject} is in no given split and goes to train" for subject in new]
        splits |= dict.fromkeys(new, "train")
    else:
        ranked = sorted(paired, key=lambda name: hashlib.sha256(name.encode()).digest())
        n = len(ranked)
        n_test = max(1, round(_TEST_SHARE * n)) if n > 1 else 0
        n_validation = max(1, round(_VALIDATION_SHARE * n)) if n > 2 else 0
        for rank, name in enumerate(ranked):
            splits[name] = (
                "test"
                if rank < n_test
                else "validation"
                if rank < n_test + n_validation
                else "train"
            )
        splits |= dict.fromkeys(unpaired, "train")
    if not any(splits[name] == "test" for name in paired):
        warnings.append("no subject is left for testing: all pairs go to " + _named(splits, paired))
    return dict(sorted(splits.items())), warnings


def _named(splits: Mapping[str, Split], paired: Collection[str]) -> str:
    return " and ".join(s for s in SPLITS if any(splits[name] == s for name in paired)) or "train"


def read_splits(path: Path) -> dict[str, Split]:
    """Read the splits of an earlier version, or of one's own making.

    Parameters
    ----------
    path : Path
        ``splits.json``: under ``subjects`` (or at the top), split to list of subjects.

    Returns
    -------
    dict
        Subject to split.

    Raises
    ------
    FormatError
        If it is no such document.
    SplitError
        If a subject is in two splits.
    """
    document: Any = read_json(path)
    listed = document.get("subjects", document) if isinstance(document, dict) else None
    if not isinstance(listed, dict) or not all(
        split in SPLITS and isinstance(names, list) and all(isinstance(n, str) for n in names)
        for split, names in listed.items()
    ):
        raise FormatError(
            f'{path}: expected {{"train": ["subject", …], "validation": […], "test": […]}}',
        )
    splits: dict[str, Split] = {}
    for split, names in listed.items():
        for name in names:
            if splits.setdefault(name, split) != split:
                raise SplitError(
                    f"{path}: subject {name!r} is in {splits[name]} and in {split}",
                    hint="a subject that is tested on must not be trained on",
                )
    return splits
