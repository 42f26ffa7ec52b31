"""A local inbox: receives what Kizashi sends, as Slack and a mail server would, and shows it as its reader sees it.

For the demo and the tests. Strict where the real receivers are (Block Kit limits, one message a second and channel,
webhook signatures); it can be told to misbehave (``Fault``).
"""

from embedded.inbox.faults import Fault
from embedded.inbox.server import Inbox
from embedded.inbox.store import Received

__all__ = ["Fault", "Inbox", "Received"]
