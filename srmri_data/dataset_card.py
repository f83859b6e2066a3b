"""README.md and croissant.json of a dataset: what its readers, the Hub and search engines need."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from srmri_data.dataset_schema import COLUMNS, SPLITS, ConfigName
from srmri_data.deid.fields import FIELDS

_CROISSANT = "http://mlcommons.org/croissant/1.0"
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_CROISSANT_TYPES = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "int32": "sc:Integer",
    "float64": "sc:Float",
    "image": "sc:ImageObject",
}
_TAGS = ("mri", "super-resolution", "image-registration", "medical", "bruker", "preclinical")


def card(
    described: Mapping[str, Any],
    certificates: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return ``README.md`` of a dataset.

    Parameters
    ----------
    described : mapping
        `ExportPlan.describe`.
    certificates : sequence of mapping
        Accuracy certificates of its runs.

    Returns
    -------
    str
        Markdown with the YAML block that the Hub reads.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Markdown, not HTML: there is nothing to escape, and `&` shall stay `&`.
    environment = Environment(
        loader=PackageLoader("srmri_data"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701
        keep_trailing_newline=True,
    )
    runs, volumes = described["runs"], described["volumes"]
    status = sum((Counter(run["status"]) for run in runs), Counter())
    roles = {"LR": "lr", "HR": "hr"}
    acquisition = {
        label: facts
        for label, role in roles.items()
        if (facts := _acquisition([v for v in volumes if v["role"] == role]))
    }
    named = dict.fromkeys(label for facts in acquisition.values() for label in facts)
    paired = {volume["subject"] for volume in volumes if volume["role"] == "lr"}
    everybody = {subject for subjects in described["splits"].values() for subject in subjects}
    return environment.get_template("dataset_card.md.j2").render(
        **{name: described[name] for name in ("title", "license", "species", "human_statement")},
        front_matter=front_matter(described),
        layout_version=described["layout_version"],
        include_queued=described["include_queued"],
        rows=described["rows"],
        subjects=described["splits"],
        volumes=volumes,
        splits=SPLITS,
        pairs_total=sum(described["rows"]["pairs"].values()),
        slices_total=sum(described["rows"]["slices_hr"].values()),
        simulated=sum(run["simulated"] for run in runs),
        n_runs=len(runs),
        repo=described["repo"] or "USER/NAME",
        revision=f"v{described['version']}",
        unpaired=", ".join(sorted(everybody - paired)),
        acquisition=acquisition,
        acquisition_labels=list(named),
        methods=_counted(_settings(run) for run in runs),
        used_methods={run["method"] for run in runs},
        status={name: status[name] for name in ("auto", "decided", "rejected", "review")},
        certificates=[row for one in certificates for row in _accuracy(one)],
        tool_version=_version(),
    )


def _version() -> str:
    try:
        return version("srmri")
    except PackageNotFoundError:
        return "(unknown version)"


def _acquisition(volumes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return every fact of some scans as text, all values that occur in it."""
    values: dict[str, list[str]] = {}
    for volume in volumes:
        own = {
            "matrix": " × ".join(map(str, volume["shape"])),
            "voxel": " × ".join(f"{1000 * mm:.4g}" for mm in volume["spacing_mm"]) + " µm",
        }
        for field in FIELDS.values():
            if field.name in volume["facts"]:
                text = _number(volume["facts"][field.name])
                label = f"{field.meaning}"
                own[label] = f"{text} {field.unit}".strip().replace(" °", "°")
        for label, text in own.items():
            values.setdefault(label, []).append(text)
    return {label: "; ".join(dict.fromkeys(texts)) for label, texts in values.items()}


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " × ".join(_number(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _settings(run: Mapping[str, Any]) -> str:
    voters = ", ".join(voter.upper() for voter in run["voters"])
    return (
        f"`{run['method']}` in the plane `{run['plane']}`, {run['trim']} slices left out at each "
        f"end, voters {voters}"
    ).replace("mm slices", "mm")


def _counted(texts: Iterable[str]) -> list[str]:
    return [
        f"{text} ({count} {'run' if count == 1 else 'runs'})"
        for text, count in Counter(texts).items()
    ]


def _accuracy(certificate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of a certificate; nothing but numbers and words of a closed set."""
    titles = {
        "as-yours": "the real pair",
        "twice-motion": "twice the motion",
        "half-signal": "half the signal",
    }
    rows = []
    for case in certificate["cases"]:
        if case["method"] not in ("geometry", "paper"):
            continue
        rows.append(
            {
                "case": titles.get(case["name"], "another case"),
                "method": case["method"],
                "n_slices": int(case["n_slices"]),
                "accepted": f"{float(case['accepted']):.1%}",
                "exact": f"{float(case['exact']):.1%}",
                "error": f"{float(case['mae_um']):.1f} µm",
                "wrong": int(case["wrongly_accepted"]),
            }
        )
    return rows


def front_matter(described: Mapping[str, Any]) -> str:
    """Return the YAML block that the Hub reads.

    Parameters
    ----------
    described : mapping
        `ExportPlan.describe`.

    Returns
    -------
    str
        Between its two ``---`` lines. One table is the default: without it
        ``load_dataset(NAME)`` would fail.
    """
    rows = described["rows"]
    tables = [name for name in ("pairs", "slices_hr") if rows[name]]
    count = sum(sum(rows[name].values()) for name in tables)
    lines = ["---", f"pretty_name: {_quoted(described['title'])}"]
    if described["license"]:
        lines.append(f"license: {_quoted(described['license'].lower())}")
    lines += ["task_categories:", "- image-to-image"]
    lines += ["size_categories:", f"- {_size_category(count)}", "tags:"]
    lines += [f"- {tag}" for tag in _TAGS]
    lines.append("configs:")
    for name in tables:
        lines.append(f"- config_name: {name}")
        lines += ["  default: true"] if name == tables[0] else []
        lines.append("  data_files:")
        for split in SPLITS:
            if rows[name].get(split):
                lines += [f"  - split: {split}", f"    path: data/{name}/{split}-*.parquet"]
    return "\n".join([*lines, "---"])


def _quoted(text: str) -> str:
    # A JSON string is a YAML string, whatever stands in it.
    return json.dumps(text, ensure_ascii=False)


def _size_category(rows: int) -> str:
    edges = (("n<1K", 1000), ("1K<n<10K", 10_000), ("10K<n<100K", 100_000))
    return next((name for name, most in edges if rows < most), "100K<n<1M")


def croissant(described: Mapping[str, Any], checksums: Mapping[str, str]) -> dict[str, Any]:
    """Return the dataset's Croissant description (https://mlcommons.org/croissant).

    Parameters
    ----------
    described : mapping
        `ExportPlan.describe`.
    checksums : mapping of str to str
        SHA-256 of the Parquet files, by their place in the dataset.

    Returns
    -------
    dict
        JSON-LD that names every Parquet file with its hash, and every column.
    """
    url = f"https://huggingface.co/datasets/{described['repo'] or 'USER/NAME'}"
    distribution: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": "repo",
            "name": "repo",
            "description": "The repository; map it to a folder to read a local copy.",
            "contentUrl": f"{url}/tree/v{described['version']}",
            "encodingFormat": "git+https",
            # A repository has no hash of its own; Croissant asks for one all the same.
            "sha256": "https://github.com/mlcommons/croissant/issues/80",
        }
    ]
    record_sets = []
    for config in COLUMNS:
        files = [path for path in sorted(checksums) if path.startswith(f"data/{config}/")]
        if not files:
            continue
        distribution += [
            {
                "@type": "cr:FileObject",
                "@id": path,
                "name": path,
                "containedIn": {"@id": "repo"},
                "contentUrl": path,
                "encodingFormat": "application/x-parquet",
                "sha256": checksums[path],
            }
            for path in files
        ]
        distribution.append(
            {
                "@type": "cr:FileSet",
                "@id": f"{config}-files",
                "name": f"{config}-files",
                "containedIn": {"@id": "repo"},
                "encodingFormat": "application/x-parquet",
                "includes": f"data/{config}/*.parquet",
            }
        )
        record_sets.append(_record_set(config, described["fields"][config]))
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": described["title"],
        "description": "Pairs of low- and high-resolution MRI slices of the same subject, both "
        "acquired by the scanner, and high-resolution slices on their own. See README.md.",
        "conformsTo": _CROISSANT,
        "citeAs": "See README.md.",
        "url": url,
        "version": described["version"],
        "keywords": list(_TAGS),
        "distribution": distribution,
        "recordSet": record_sets,
    }
    if described["license"]:
        document["license"] = described["license"]
    return document


def _record_set(config: ConfigName, columns: Sequence[str]) -> dict[str, Any]:
    def field(column: str, kind: str, inside: str = "") -> dict[str, Any]:
        name = f"{column}/{inside}" if inside and kind != "image" else column
        source = {"fileSet": {"@id": f"{config}-files"}, "extract": {"column": column}}
        return {
            "@type": "cr:Field",
            "@id": f"{config}/{name}",
            "name": f"{config}/{name}",
            "dataType": _CROISSANT_TYPES[kind],
            "source": source | ({"transform": {"jsonPath": inside}} if inside else {}),
        }

    fields = []
    for column in columns:
        kind = COLUMNS[config][column]
        if isinstance(kind, Mapping):
            fields += [field(column, inner, name) for name, inner in kind.items()]
        else:
            fields.append(field(column, kind, "bytes" if kind == "image" else ""))
    return {"@type": "cr:RecordSet", "@id": config, "name": config, "field": fields}
