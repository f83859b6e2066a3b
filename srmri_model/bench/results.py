"""All that was found, as tables, figures and the page take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srmri_model.bench.cells import Cell
from srmri_model.bench.methods import Named
from srmri_model.bench.plan import TablesConfig
from srmri_model.bench.summary import Row
from srmri_model.bench.tasks import Task


@dataclass(frozen=True, eq=False)
class Results:
    """What a run found.

    Parameters
    ----------
    config : TablesConfig
        Settings.
    tasks : sequence of Task
        Slices, by subject.
    cells : mapping of str to list of Cell
        By method, in the order of the slices; methods that failed altogether are missing.
    named : mapping of str to Named
        Every method.
    rows : mapping of str to list of Row
        By table.
    failures : mapping of str to str
        Why cells are missing, by method.
    conditions : sequence of (str, str)
        What it all stands on.
    """

    config: TablesConfig
    tasks: Sequence[Task]
    cells: Mapping[str, Sequence[Cell]]
    named: Mapping[str, Named]
    rows: Mapping[str, Sequence[Row]]
    failures: Mapping[str, str]
    conditions: Sequence[tuple[str, str]]

    def cell_of(self, method: str, task: Task) -> Cell | None:
        """Find a cell.

        Parameters
        ----------
        method : str
            Its method.
        task : Task
            Its slice.

        Returns
        -------
        Cell or None
            None if it is missing.
        """
        wanted = (task.pair["subject"], task.pair["slice_index"])
        for cell in self.cells.get(method, ()):
            if (cell.subject, cell.slice_index) == wanted:
                return cell
        return None
