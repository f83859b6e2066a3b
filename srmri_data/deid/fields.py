"""The allow-list: facts of a scan's header that may be published, with their units.

A field that is not listed here does not leave, and neither does a value of a kind that the list
does not expect: free text can hold a name wherever it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from srmri_data.volumes import Sourced

_PROTON_MHZ_PER_TESLA = 42.577478518
# ParaVision's own sequences; a laboratory's may be called after the person who wrote it.
SEQUENCES = frozenset(
    [
        *("CASL", "CEST", "DtiEpi", "DtiStandard", "DtiSpiral", "DWI", "EPI", "FAIR_EPI"),
        *("FAIR_RARE", "FAIRRARE", "FcFLASH", "FISP", "FISPND", "FLASH", "FLOWMAP", "GEFC"),
        *("IgFLASH", "IntraGateFLASH", "ISIS", "MDEFT", "MGE", "MP2RAGE", "MPRAGE", "MSME"),
        *("PCASL_EPI", "PRESS", "RARE", "RAREVTR", "RAREst", "SEGFLASH", "SPIRAL", "STEAM"),
        *("SWI", "T1_EPI", "T1_FLASH", "T1_RARE", "T2_TurboRARE", "T2S_EPI", "UTE", "UTE3D", "ZTE"),
    ]
)
SUBJECT_TYPES = frozenset(("Quadruped", "OtherAnimal", "Biped", "Phantom", "Human", "Other"))
POSITIONS = frozenset(
    f"{end}_{side}" for end in ("Head", "Foot") for side in ("Supine", "Prone", "Left", "Right")
)


@dataclass(frozen=True)
class PublicField:
    """A fact that may be published.

    Parameters
    ----------
    name : str
        Its public name, with the unit.
    unit : str
        Unit, or empty.
    meaning : str
        In words.
    check : callable
        Returns the value as it may be published, or None.
    """

    name: str
    unit: str
    meaning: str
    check: Callable[[Any], Any]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _numbers(value: Any) -> list[float] | None:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= 64:
        return None
    found = [_number(entry) for entry in value]
    return [entry for entry in found if entry is not None] if None not in found else None


def _some_number(value: Any) -> float | list[float] | None:
    return _numbers(value) if isinstance(value, list | tuple) else _number(value)


def _one_of(words: frozenset[str]) -> Callable[[Any], str | None]:
    return lambda value: value if isinstance(value, str) and value in words else None


def _field_strength(value: Any) -> float | None:
    # To a tenth of a tesla: with all its digits the frequency is the magnet's fingerprint.
    number = _number(value)
    return None if number is None else round(number / _PROTON_MHZ_PER_TESLA, 1)


FIELDS: Mapping[str, PublicField] = {
    "method": PublicField("sequence", "", "sequence", _one_of(SEQUENCES)),
    "subject_type": PublicField("subject_type", "", "subject type", _one_of(SUBJECT_TYPES)),
    "subject_position": PublicField("subject_position", "", "position", _one_of(POSITIONS)),
    "repetition_time_ms": PublicField("repetition_time_ms", "ms", "repetition time", _some_number),
    "echo_time_ms": PublicField("echo_time_ms", "ms", "echo time", _some_number),
    "flip_angle_deg": PublicField("flip_angle_deg", "°", "excitation flip angle", _some_number),
    "field_of_view_mm": PublicField("field_of_view_mm", "mm", "field of view", _numbers),
    "slice_thickness_mm": PublicField(
        "slice_thickness_mm", "mm", "slice or slab thickness", _number
    ),
    "encoded_dimensions": PublicField("encoded_dimensions", "", "encoded dimensions", _number),
    "averages": PublicField("averages", "", "number of averages", _number),
    "pixel_bandwidth_hz": PublicField("pixel_bandwidth_hz", "Hz", "bandwidth per pixel", _number),
    "imaging_frequency_mhz": PublicField(
        "field_strength_t", "T", "magnetic field, to 0.1 T", _field_strength
    ),
}


def public_fields(fields: Mapping[str, Sourced]) -> dict[str, Any]:
    """Return what may be published of a header.

    Parameters
    ----------
    fields : mapping of str to Sourced
        `Provenance.fields` of a scan.

    Returns
    -------
    dict
        Public name to number, list of numbers, or a word of a closed set.

    Examples
    --------
    >>> public_fields({"echo_time_ms": Sourced(5, ""), "subject_id": Sourced("Fritz", "")})
    {'echo_time_ms': 5.0}
    """
    found = {
        public.name: public.check(fields[name].value)
        for name, public in FIELDS.items()
        if name in fields
    }
    nucleus = fields.get("nucleus")
    if nucleus is None or "1H" not in str(nucleus.value):
        # The field follows from the frequency for protons only.
        found.pop("field_strength_t", None)
    return {name: value for name, value in found.items() if value is not None}


def acquisition_date(fields: Mapping[str, Sourced]) -> date | None:
    """Return the day of a scan, which is never published as it is.

    Parameters
    ----------
    fields : mapping of str to Sourced
        `Provenance.fields` of a scan.

    Returns
    -------
    date or None
        None where the header does not say.

    Examples
    --------
    >>> acquisition_date({"acquired_at": Sourced("12:01:02  5 Jan 2024", "visu_pars:VisuAcqDate")})
    datetime.date(2024, 1, 5)
    """
    text = str(fields["acquired_at"].value) if "acquired_at" in fields else ""
    for pattern, form in (
        (r"\d{4}-\d\d-\d\d", "%Y-%m-%d"),
        (r"\d+ [A-Z][a-z]{2} \d{4}", "%d %b %Y"),
    ):
        found = re.search(pattern, text)
        if found:
            try:
                return datetime.strptime(found[0], form).date()
            except ValueError:
                continue
    return None
