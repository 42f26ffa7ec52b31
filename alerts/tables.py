"""Tables of the alerts: rulebooks, episodes with their transitions, and the outbox with its attempts."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from health.tables import ID, TZ, metadata

rulebooks = Table(
    "rulebooks",
    metadata,
    Column("version", Text, primary_key=True),  # content hash of all rule and scorecard files
    Column("content", JSONB, nullable=False),
    Column("loaded_at", TZ, nullable=False),
)

rule_activations = Table(
    "rule_activations",
    metadata,
    Column("rule_id", Text, primary_key=True),
    Column("rule_version", Text, nullable=False),  # content hash of this rule's condition
    Column("activated_at", TZ, nullable=False),  # when this condition went live: what began before is pre-existing
    Column("retired_at", TZ),
    Column("levels_version", Text),  # content hash of its severity
    Column("levels_at", TZ),  # when that went live: no account became more severe by it
)

episodes = Table(
    "episodes",
    metadata,
    Column("episode_id", UUID(as_uuid=True), primary_key=True),
    Column("rule_id", Text, nullable=False),
    Column("account_id", ID, nullable=False),
    Column("state", Text, nullable=False),  # open | resolved | withdrawn
    Column("severity", Text, nullable=False),  # info | warning | critical
    Column("pre_existing", Boolean, nullable=False, server_default=text("false")),
    Column("since", TZ, nullable=False),
    Column("opened_at", TZ, nullable=False),
    Column("closed_at", TZ),
    Column(
        "cleared_at", TZ
    ),  # when the condition was first seen false; NULL after a person's resolve: still true, stay quiet
    Column("acknowledged_at", TZ),
    Column("acknowledged_by", Text),
    Column("snoozed_until", TZ),
    Column("outcome", Text),  # saved | churned | false_alarm | expected | no_answer
    Column("next_at", TZ),  # timers of the episode: end of snooze, reminders
    Column("owner", Text),
    Column("mrr", Numeric(18, 4)),
    Column("rule_version", Text, nullable=False),
    Column("scorecard", Text),
    Column("reason", JSONB, nullable=False),  # {"en": …, "ja": …}
    Column("signals", JSONB, nullable=False),  # at firing
    Column("score", Numeric(5, 1)),
    Column("contributions", JSONB),  # at firing
    Column("version", Integer, nullable=False, server_default="1"),  # expected version of API actions
    Column("updated_at", TZ, nullable=False),
    Index("uq_episodes_open", "rule_id", "account_id", unique=True, postgresql_where=text("state = 'open'")),
    Index("ix_episodes_account", "account_id", text("opened_at DESC")),
    Index("ix_episodes_list", text("opened_at DESC"), "episode_id"),
    Index("ix_episodes_open", text("opened_at DESC"), "episode_id", postgresql_where=text("state = 'open'")),
    Index("ix_episodes_next", "next_at", postgresql_where=text("state = 'open' AND next_at IS NOT NULL")),
)

transitions = Table(
    "transitions",
    metadata,
    Column("transition_id", BigInteger, Identity(), primary_key=True),
    Column("episode_id", UUID(as_uuid=True), ForeignKey("episodes.episode_id", ondelete="CASCADE"), nullable=False),
    Column("kind", Text, nullable=False),  # opened | renotified | escalated | acknowledged | snoozed | resolved | …
    Column("at", TZ, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),  # "kizashi", "key:<name>", "board:<name>"
    Column("data", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Index("ix_transitions_episode", "episode_id", "transition_id"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", UUID(as_uuid=True), primary_key=True),  # stable over retries: Message-ID, webhook-id
    Column("transition_id", BigInteger, ForeignKey("transitions.transition_id", ondelete="CASCADE"), nullable=False),
    Column("episode_id", UUID(as_uuid=True), nullable=False),
    Column("account_id", ID, nullable=False),
    Column("channel", Text, nullable=False),  # slack | email | webhook
    Column(
        "target", Text, nullable=False
    ),  # a name, never a secret: person:<id>, team, webhook:<name>, an e-mail address
    Column("recipient", Text),  # person_id
    Column("language", Text, nullable=False),
    Column("message", JSONB, nullable=False),  # the alert view that the renderer turns into the channel's form
    Column("status", Text, nullable=False, server_default="pending"),  # pending | leased | sent | dead | cancelled
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", TZ, nullable=False),
    Column("leased_until", TZ),
    Column("created_at", TZ, nullable=False),
    Column("oldest_event_at", TZ),  # for event-to-alert latency
    Column("sent_at", TZ),
    UniqueConstraint("transition_id", "channel", "target"),
    Index("ix_deliveries_due", "next_attempt_at", postgresql_where=text("status IN ('pending', 'leased')")),
    Index("ix_deliveries_dead", "created_at", postgresql_where=text("status = 'dead'")),
    Index("ix_deliveries_episode", "episode_id"),
    Index("ix_deliveries_list", text("created_at DESC"), "delivery_id"),
)

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column(
        "delivery_id", UUID(as_uuid=True), ForeignKey("deliveries.delivery_id", ondelete="CASCADE"), primary_key=True
    ),
    Column("attempt", Integer, primary_key=True),
    Column("started_at", TZ, nullable=False),
    Column("finished_at", TZ),
    Column("outcome", Text, nullable=False),  # started | sent | retry | permanent | abandoned
    Column("status_code", Integer),
    Column("detail", Text),
    Column("retry_at", TZ),
)

channel_holds = Table(
    "channel_holds",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("until", TZ, nullable=False),
    Column("reason", Text, nullable=False),
    comment="A receiver's Retry-After defers the whole target, not one message",
)
