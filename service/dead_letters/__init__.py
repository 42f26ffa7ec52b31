"""Dead letters as people work them off: looked at, mended and sent again, or discarded; by API, board and command."""

from service.dead_letters.desk import Bulk, Desk, Outcome
from service.dead_letters.showing import Change, Shown, changes, shown

__all__ = ["Bulk", "Change", "Desk", "Outcome", "Shown", "changes", "shown"]
