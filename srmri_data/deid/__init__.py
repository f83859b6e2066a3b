"""What may be said of a scan in public, under which name, and how to find what may not."""

from srmri_data.deid.fields import FIELDS, PublicField, acquisition_date, public_fields
from srmri_data.deid.pseudonyms import Pseudonyms

__all__ = ["FIELDS", "Pseudonyms", "PublicField", "acquisition_date", "public_fields"]
