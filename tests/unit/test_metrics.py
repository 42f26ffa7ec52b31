"""Expositions of several roles become one without a family described twice."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import merged


def test_families_merge_by_name_with_a_role_label() -> None:
    own = CollectorRegistry()
    Counter("shared_total", "Shared", ["kind"], registry=own).labels("a").inc(2)
    Histogram("own_seconds", "Own", registry=own).observe(0.1)
    theirs = (
        '# HELP shared_total Shared\n# TYPE shared_total counter\nshared_total{kind="a"} 5.0\n'
        "# HELP alone Alone\n# TYPE alone gauge\nalone 1.0\n"
    )
    text = merged(own, {"consumer": theirs, "sender": None, "broken": "# TYPE x counter\nx{ 1"}).decode()
    assert text.count("# TYPE shared_total counter") == 1
    found = {family.name: family for family in text_string_to_metric_families(text)}
    shared = {
        sample.labels["role"]: sample.value for sample in found["shared"].samples if sample.name == "shared_total"
    }
    assert shared == {"api": 2, "consumer": 5}
    assert found["own_seconds"].type == "histogram"
    assert {sample.labels["role"] for sample in found["alone"].samples} == {"consumer"}
    up = {sample.labels["role"]: sample.value for sample in found["kizashi_role_up"].samples}
    assert up == {"api": 1, "consumer": 1, "sender": 0, "broken": 0}
