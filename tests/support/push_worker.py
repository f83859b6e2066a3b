"""Pushes in processes that can be killed.

Imports everything once and then forks a process for every job on stdin, a JSON object with
`folder`, `config` and `nonce`. Prints the process's id when it starts, and its wait status, the
message and the traceback, if any, when it has ended.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def quick() -> None:
    """Let the clients' own retries wait for nothing."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    still = SimpleNamespace(sleep=lambda seconds: None)
    _http.time = file_download.time = still


def run(job: dict[str, Any]) -> int:
    """Push; return the exit code the command line would."""
    from srmri_data.deid.scan import ScanReport
    from srmri_data.errors import SrmriError
    from srmri_data.hub import push
    from srmri_data.push_plan import PushConfig

    try:
        push(
            Path(job["folder"]),
            PushConfig(**job["config"]),
            scan=lambda folder: ScanReport(0, 0, ()),
            nonce=job["nonce"],
            sleep=lambda seconds: None,
        )
    except SrmriError as error:
        print(f"{error.message} | {error.hint}", file=sys.stderr, flush=True)
        return int(error.exit_code)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Serve jobs until stdin ends."""
    import datasets  # noqa: F401

    import srmri_data.hub  # noqa: F401

    quick()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(run(json.loads(line)))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
