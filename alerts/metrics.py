"""Metrics of evaluation and delivery. Labels are few and fixed: never an account, a person or an address."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

DELIVERIES = Counter(
    "kizashi_deliveries_total", "Attempts to deliver a message, by what came of them", ["channel", "outcome"]
)
OLDEST_UNDELIVERED = Gauge(
    "kizashi_oldest_undelivered_seconds", "Age of the oldest message that is neither sent nor given up; 0: none"
)
EVENT_TO_ALERT = Histogram(
    "kizashi_event_to_alert_seconds",
    "From the arrival of the event that made a rule true to the receiver's acceptance of the message",
    buckets=(0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800, 7200, 86400, 259200),
)

EVENT_TO_EVALUATION = Histogram(
    "kizashi_event_to_evaluation_seconds",
    "From the arrival of the oldest event of a batch to the evaluation of its accounts",
    buckets=(0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800),
)
EVALUATIONS = Counter("kizashi_evaluations_total", "Accounts evaluated, by the door they came through", ["door"])
EVALUATION_FAILURES = Counter("kizashi_evaluation_failures_total", "Accounts whose evaluation failed and was put off")
ALERTS = Counter("kizashi_alerts_total", "Transitions of alerts", ["rule", "transition"])
SWEEP_LAST_SUCCESS = Gauge(
    "kizashi_sweep_last_success_timestamp_seconds",
    "When the sweep for missed accounts last ended well; a dead-man's switch",
)
SWEEP_CIRCLE = Gauge(
    "kizashi_sweep_circle_seconds", "How long the sweep's last way round all accounts took: missed work waits no longer"
)
REEVALUATION_LEFT = Gauge(
    "kizashi_reevaluation_left_accounts", "Accounts that the round of re-evaluation has still to look at; 0: none runs"
)
INGESTION_HELD = Gauge(
    "kizashi_ingestion_held_seconds", "For how long data has been incomplete, so that absence is not believed; 0: it is"
)
UNREACHABLE = Counter("kizashi_alerts_unreachable_total", "Alerts for which nobody could be found to tell", ["rule"])
