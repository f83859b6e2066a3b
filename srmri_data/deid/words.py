"""What says nothing about anybody, and what does: vocabulary and patterns of the scan."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from srmri_data.deid.fields import POSITIONS, SEQUENCES, SUBJECT_TYPES

_WORDS = frozenset(
    [
        *("", "n/a", "none", "unsure", "decision", "undo", "catch", "repeat", "true", "false"),
        *("coronal", "axial", "sagittal", "acquired", "geometry", "paper", "auto", "decided"),
        *("review", "rejected", "train", "validation", "test", "lr", "hr", "pca", "lpips", "ssim"),
        *("register", "match", "gain", "path", "correlation", "mutual-information", "subject"),
        *("bulk", "single", "blink", "swipe", "checker", "difference", "edges", "opacity", "side"),
        *("hold", "matched", "reveal", "Bruker", "2D", "3D", "RAS", "mm", "ms", "MRI", "ROI"),
        *SEQUENCES,
        *SUBJECT_TYPES,
        *POSITIONS,
    ]
)
_HARMLESS = re.compile(
    r"""
    [-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?(mm|um|µm)?   # a number, a length
    | (srmri[ ])?v?\d+(\.\d+){0,3}([-+.]?[a-z]{1,5}\d*)?   # a version
    | [LRAPSI]{3}                                         # an orientation
    | ([0-9a-f]{64}|[0-9a-f]{40})                          # a hash
    | (bids:raw:)?([a-z]+/)?(sub-)?[sr][0-9a-f]{10}       # a pseudonym, and names made of it
      ([_/](sub-[s][0-9a-f]{10}|s[0-9a-f]{10}|ses-\d\d|\d{2,5}|[hl]r\d*|with|anat|acq-[\dx]+um
      |run-\d\d|coronal|axial|sagittal|acquired|aligned|mask|T2starw|T[12]w|PDw))*
      (\.nii\.gz|\.parquet|\.jsonl|\.tsv)?
    """,
    re.VERBOSE,
)
_MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_MONTH = rf"(?:{_MONTHS})[a-z]{{0,6}}\.?"
_YEAR = r"(?:19|20)\d\d"
_PLACES = "home|Users|opt|data|mnt|media|srv|var|tmp|root|nfs|scratch|export|usr|work|lab|storage"

PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("date", re.compile(rf"(?<!\d){_YEAR}[-/._](?:0?[1-9]|1[0-2])[-/._](?:[0-2]?\d|3[01])(?!\d)")),
    ("date", re.compile(rf"(?<!\d)(?:[0-2]?\d|3[01])[-/.](?:[0-2]?\d|3[01])[-/.]{_YEAR}(?!\d)")),
    ("date", re.compile(rf"(?<![A-Za-z\d.]){_YEAR}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])(?![\da-f])")),
    ("date", re.compile(rf"\b\d{{1,2}}(?:st|nd|rd|th)?[ -]{_MONTH}[ -,]+{_YEAR}\b", re.I)),
    ("date", re.compile(rf"\b{_MONTH}\s+\d{{1,2}}(?:\s+[\d:]{{5,8}})?,?\s+{_YEAR}\b", re.I)),
    ("date", re.compile(r"(?<![A-Za-z\d.])1\d{9}(?:\d{3})?(?![A-Za-z\d.])")),
    ("uid", re.compile(r"(?<![\d.])[0-2](?:\.(?:0|[1-9]\d*)){5,}(?![\d.])")),
    ("uid", re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.I)),
    ("e-mail", re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*")),
    ("network", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")),
    ("network", re.compile(r"\b[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}\b", re.I)),
    ("host", re.compile(r"\b[\w-]+\.(?:local|lan|internal|intranet|corp|localdomain)\b", re.I)),
    ("path", re.compile(rf"(?<![\w:/.])/(?:{_PLACES})/[^\s\"'<>|]+")),
    ("path", re.compile(r"\b[A-Z]:\\[^\s\"'<>|]+|\\\\[\w.-]+\\[^\s\"'<>|]+|file://\S+|~\w*/\S+")),
    ("name", re.compile(r"\b(?:Dr|Prof|Mr|Mrs|Ms)\.?\s+[A-ZÄÖÜ]\w+")),
    ("telephone", re.compile(r"(?<!\w)\+\d[\d ()-]{7,}\d")),
    ("secret", re.compile(r"\bhf_[A-Za-z0-9]{16,}\b|\bgh[pousr]_\w{20,}\b|-----BEGIN [A-Z ]+KEY")),
)
"""Kind of what is found, and how it looks."""

IDENTITY_KEY = re.compile(
    r"name$|birth|operator|physician|institution|station|serial|address|comment|remark|"
    r"patient|owner|origin|user|host|login|uid|uuid|email|phone|investigator|purpose|entry|"
    r"weight|date|time$|path$|directory|folder|note$|command|reviewer|study|coil|instrument",
    re.I,
)
"""Names of fields that say who, where or when."""

# Accounts that every machine has: finding them says nothing.
_EVERYBODY = frozenset(
    [
        *("root", "user", "users", "admin", "home", "localhost", "runner", "ubuntu", "debian"),
        *("test", "guest", "docker", "build"),
    ]
)


def is_harmless(text: str) -> bool:
    """Return whether a value is a number, a hash, a pseudonym or a word of the closed sets.

    Parameters
    ----------
    text : str
        A value of a table or a JSON document.

    Returns
    -------
    bool
        False for anything that is not known, which is not to say that it identifies anybody.

    Examples
    --------
    >>> is_harmless("coronal"), is_harmless("s0123456789_01_hr"), is_harmless("Fritz")
    (True, True, False)
    """
    word = text.strip()
    return word in _WORDS or _HARMLESS.fullmatch(word) is not None or _is_far(word)


def identifiers_in(text: str) -> list[tuple[str, str]]:
    """Return what looks like a date, a name, an address or a place in a file system.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    list of (str, str)
        Kind and text of every hit.

    Examples
    --------
    >>> identifiers_in("scanned 5 Jan 2024 by ann@lab.example")
    [('date', '5 Jan 2024'), ('e-mail', 'ann@lab.example')]
    """
    return [
        (kind, match[0])
        for kind, pattern in PATTERNS
        for match in pattern.finditer(text)
        if kind != "date" or not _is_far(match[0])
    ]


def _is_far(text: str) -> bool:
    """Return whether an ISO date is one that was moved out of every scanner's lifetime."""
    try:
        return date.fromisoformat(text[:10]) < date(1926, 1, 1) and text[10:] in ("", "T00:00:00")
    except ValueError:
        return False


def telling(names: Iterable[str]) -> list[str]:
    """Return the names that say something where they are found.

    Parameters
    ----------
    names : iterable of str
        Names of subjects, reviewers, places.

    Returns
    -------
    list of str
        Without those of fewer than four characters, short numbers, and words that stand in every
        dataset: they would be found everywhere.

    Examples
    --------
    >>> telling(["m1", "4711", "FLASH", "Fritz"])
    ['Fritz']
    """
    return sorted(
        {name for name in names if len(name) > 3 and not (name.isdigit() and len(name) < 7)}
        - _WORDS
    )


def of_this_machine() -> frozenset[str]:
    """Return the account, host and home of this machine, where they say anything.

    Returns
    -------
    frozenset of str
        At least four characters each.
    """
    home = str(Path.home())
    found = {socket.gethostname(), socket.gethostname().split(".")[0], home}
    with contextlib.suppress(KeyError, OSError):
        found.add(getpass.getuser())
    return frozenset(w for w in found if len(w) > 3 and w.strip("/").lower() not in _EVERYBODY)
