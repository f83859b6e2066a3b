"""Public docstrings follow numpydoc, checked on the imported objects.

`make lint` checks the source text, where a dataclass seems to have no parameters and a property
seems to return nothing; those checks are made here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from enum import Enum

import pytest
from numpydoc.validate import validate

import srmri_data
import srmri_model

CHECKS = {"GL08", "PR01", "PR02", "PR03", "RT01", "YD01"}
# Compiled functions have no signature to compare with.
MODULES = sorted(
    module.name
    for package in (srmri_data, srmri_model)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("_kernel")
)


def is_called_by_nobody(kind):
    """Exceptions, enumerations and protocols: nobody fills in their parameters."""
    return issubclass(kind, (Exception, Enum)) or getattr(kind, "_is_protocol", False)


def public_names(module):
    """Functions and classes a module defines, and the public methods of the classes."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield f"{module.__name__}.{name}"
        elif inspect.isclass(thing) and not is_called_by_nobody(thing):
            yield f"{module.__name__}.{name}"
            yield from (
                f"{module.__name__}.{name}.{method}"
                for method, member in vars(thing).items()
                if not method.startswith("_") and inspect.isfunction(member)
            )


def problems(name):
    report = validate(name)
    # Named tuples tell their fields under Attributes.
    told = {"PR01"} if "Attributes\n" in report["docstring"] else set()
    return [error for error in report["errors"] if error[0] in CHECKS - told]


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_say_what_they_must(module):
    found = {name: problems(name) for name in public_names(importlib.import_module(module))}
    assert {name: errors for name, errors in found.items() if errors} == {}


def test_a_wrong_docstring_is_found(monkeypatch):
    """Control: the check sees an undocumented parameter."""

    def wrong(a: int) -> int:
        """Do it.

        Parameters
        ----------
        b : int
            Not there.
        """
        return a

    monkeypatch.setattr(srmri_data, "wrong", wrong, raising=False)
    assert {code for code, _ in problems("srmri_data.wrong")} >= {"PR01", "PR02", "RT01"}
