"""Nothing of what is hidden in a study leaves, and without de-identification all of it is found."""

from __future__ import annotations

import pytest
from canaries import publish_as_it_is, six_dates, spoiled_run, unpacked
from export_runs import KEY

from srmri_data.bids import write_bids
from srmri_data.deid import Pseudonyms
from srmri_data.deid.scan import scan_phi
from srmri_data.export import ExportConfig, plan_export, write_export
from srmri_data.slices import Trim

LEAST = 70


def check(root, studies):
    """Export the studies together; return how many canaries there were, leaked and overlooked."""
    made = [spoiled_run(root / f"study-{n}", n) for n in studies]
    plan = plan_export(
        [run for run, _, _ in made],
        config=ExportConfig(
            hr_only=tuple(alone for _, alone, _ in made),
            species="Mus musculus",
            include_queued=True,
            preview=True,
            trim=Trim(2, "slices"),
        ),
        pseudonyms=Pseudonyms(KEY),
    )
    write_export(plan, root / "staged")
    write_bids(plan, root / "bids", suffix="T2starw")
    published = b"\0".join(c for name in ("staged", "bids") for c in unpacked(root / name))
    hidden = [token for _, _, canaries in made for token in canaries.placed]
    leaked = [token for token in hidden if token.encode() in published]
    overlooked = []
    for run, alone, canaries in made:
        out = root / "raw" / run.name
        publish_as_it_is(run, alone, out, canaries)
        assert len(canaries.placed) >= LEAST
        raw = b"\0".join(unpacked(root / "raw" / run.name))
        reports = [f"{f.file} {f.text}" for f in scan_phi(out).findings]
        overlooked += [
            (token, place)
            for token, place in canaries.placed.items()
            if token.encode() in raw
            and not any(" ".join(token.split()) in text for text in reports)
        ]
        # Control: nearly all are there to be found; two are names of places left behind.
        assert sum(token.encode() in raw for token in canaries.placed) >= LEAST
    assert scan_phi(root / "staged").findings == ()
    return len(hidden), leaked, overlooked


def test_no_canary_leaves_and_none_is_overlooked(tmp_path):
    hidden, leaked, overlooked = check(tmp_path, range(3))
    assert (leaked, overlooked) == ([], [])
    assert hidden >= 3 * LEAST


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(10))
def test_no_canary_of_two_hundred_studies_leaves(tmp_path, batch):
    hidden, leaked, overlooked = check(tmp_path, range(20 * batch, 20 * batch + 20))
    assert (leaked, overlooked) == ([], [])
    assert hidden >= 20 * LEAST


def test_days_are_written_in_six_ways():
    assert len({text for n in range(200) for text in six_dates(n)}) == 1200
