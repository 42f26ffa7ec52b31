"""History files to events: a mapping says what each row becomes, ``consumers.importing`` sends it."""

from consumers.backfill.convert import Refusal, Refused
from consumers.backfill.files import FileFault, SourceFile, survey
from consumers.backfill.history import Counts, History
from consumers.backfill.mapping import Mapping, json_schema, load
from consumers.backfill.run import BackfillError, Plan, begin, waited_until_applied

__all__ = [
    "BackfillError",
    "Counts",
    "FileFault",
    "History",
    "Mapping",
    "Plan",
    "Refusal",
    "Refused",
    "SourceFile",
    "begin",
    "json_schema",
    "load",
    "survey",
    "waited_until_applied",
]
