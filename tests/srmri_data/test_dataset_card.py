"""The card says what is in the dataset, and Croissant's own reader reads it."""

from __future__ import annotations

import itertools
import json

import pytest
from export_runs import KEY, make_run

from srmri_data.dataset_card import card, croissant, front_matter
from srmri_data.deid import Pseudonyms
from srmri_data.errors import PrivacyError, UsageError
from srmri_data.export import ExportConfig, plan_export, write_export
from srmri_data.slices import Trim


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, name, seed) for seed, name in enumerate(("ada", "bea", "cleo"))]


def plan(runs, **settings):
    settings = {"license": "CC-BY-4.0", "title": "Mice, twice", **settings}
    return plan_export(runs, config=ExportConfig(**settings), pseudonyms=Pseudonyms(KEY))


def test_the_front_matter_is_yaml_with_a_default_table(runs):
    yaml = pytest.importorskip("yaml")
    text = front_matter(plan(runs, title='A "quoted": title').describe())
    head = yaml.safe_load(text.strip("-\n"))
    assert head["pretty_name"] == 'A "quoted": title'
    assert head["license"] == "cc-by-4.0"
    assert [config.get("default", False) for config in head["configs"]] == [True, False]
    assert [config["config_name"] for config in head["configs"]] == ["pairs", "slices_hr"]
    splits = [file["split"] for file in head["configs"][0]["data_files"]]
    assert splits == ["train", "validation", "test"]


def test_without_pairs_the_slices_are_the_default(runs, tmp_path):
    from export_runs import study

    extra = study(tmp_path / "eve", "eve", 9) / "1"
    text = front_matter(plan([], hr_only=(extra,), trim=Trim(2, "slices")).describe())
    assert "- config_name: slices_hr\n  default: true" in text
    assert "config_name: pairs" not in text


def test_the_card_tells_acquisition_and_what_is_left_out(runs):
    described = plan(runs, species="Mus musculus").describe()
    text = card(described)
    assert "| echo time | 5 ms | 5 ms |" in text
    assert "| voxel | 200 × 200 × 200 µm | 100 × 100 × 100 µm |" in text
    assert "Mus musculus" in text
    assert "Rejected and undecided pairs are not included" in text
    assert "how exact the pairs are is not known" in text
    assert "whose LR scan is simulated" not in text
    assert 'revision="v1.0.0"' in text
    queued = card(plan(runs, include_queued=True).describe())
    assert "Undecided pairs are included" in queued


def test_the_card_shows_the_certificate(runs):
    case = {
        "name": "as-yours", "method": "geometry", "n_slices": 90, "accepted": 0.9, "exact": 0.95,
        "mae_um": 3.25, "wrongly_accepted": 0, "title": "free text of anybody",
    }  # fmt: skip
    text = card(plan(runs).describe(), [{"cases": [case]}])
    assert "| the real pair | geometry | 90 | 90.0% | 95.0% | 3.2 µm | 0 |" in text
    assert "free text" not in text


@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_validates_it_and_reads_every_table(runs, tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    staged = write_export(plan(runs), tmp_path / "out")
    dataset = mlcroissant.Dataset(
        jsonld=str(staged.path / "croissant.json"), mapping={"repo": str(staged.path)}
    )
    for table in ("pairs", "slices_hr"):
        (row,) = itertools.islice(dataset.records(table), 1)
        assert row[f"{table}/split"] in (b"train", b"validation", b"test")
    assert row["slices_hr/image"].mode == "I;16"


@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_refuses_a_wrong_description(runs, tmp_path):
    """Control: a column that is not there is found."""
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    document = croissant(plan(runs).describe(), {"data/pairs/train-0.parquet": "0" * 64})
    document["recordSet"][0]["field"][0]["source"]["fileSet"]["@id"] = "nowhere"
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(jsonld=str(tmp_path / "wrong.json"))


@pytest.mark.parametrize("settings", [{"version": "v1"}, {"title": " "}, {"title": "a\nb"}])
def test_what_the_card_can_not_say_is_refused(settings):
    with pytest.raises(UsageError):
        ExportConfig(**settings)


def test_a_name_in_the_title_does_not_leave(runs, tmp_path):
    for title in ("Scans by ann@lab.example", "Scans of 5 Jan 2024", "The brain of cleo"):
        with pytest.raises(PrivacyError, match=r"README\.md"):
            write_export(plan(runs, title=title), tmp_path / "out")
        assert not (tmp_path / "out").exists()
