"""The pairing report: figures and one self-contained page about a run."""

from srmri_data.reports.page import write_report
from srmri_data.reports.series import ReportInputs

__all__ = ["ReportInputs", "write_report"]
