"""Signals: pure numpy functions of (facts, instants, what was observed). One module per family of the catalogue."""

from health.signals.table import SignalTable, compute
from health.signals.timing import next_change, steps

__all__ = ["SignalTable", "compute", "next_change", "steps"]
