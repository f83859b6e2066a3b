"""From reviewed runs to a dataset others can load: a plan to look at, then a folder.

`plan_export` says everything that will be written; `write_export` writes it. What is written is
described in ``docs/publishing.md``.
"""

from srmri_data.export.plan import (
    ExportConfig,
    ExportPlan,
    PlannedPairs,
    PlannedVolume,
    Progress,
    plan_export,
)
from srmri_data.export.rows import pixels_sha256
from srmri_data.export.write import StagedDataset, refuse_identifiers, write_export

__all__ = [
    "ExportConfig",
    "ExportPlan",
    "PlannedPairs",
    "PlannedVolume",
    "Progress",
    "StagedDataset",
    "pixels_sha256",
    "plan_export",
    "refuse_identifiers",
    "write_export",
]
