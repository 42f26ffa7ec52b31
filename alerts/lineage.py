"""Parents in an evaluation: whom the accounts of a batch name, what is below them, and what they tell their parents.

Part of the evaluation's transaction. A parent is touched in it, and only when one of its children tells something else
than before, so that a quiet child costs its parent nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from alerts.rules import Rule
from health import hierarchy_rows
from health.arrays import Bools
from health.catalogue import OF_CHILDREN, SCORE_SIGNALS
from health.columns import Facts
from health.hierarchy import PARENT, Link, Own, RollUp, as_child, roll_up, umbrellas
from health.signals.hierarchy import OF_OWN_USE

if TYPE_CHECKING:
    from alerts.observing import AccountRow, Batch

NO_FACTS = -1
"""Version of an account of which no event has come yet."""
_OF_ITSELF: Final = OF_OWN_USE | SCORE_SIGNALS


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """``links`` hold the accounts that name a parent; ``below`` is what is under each account of the batch, and
    ``umbrella`` (A,) says which were never used themselves."""

    links: Mapping[str, Link]
    below: RollUp
    umbrella: Bools


def leaves_umbrellas(rule: Rule) -> bool:
    """Whether a rule is none of an umbrella's: it speaks of use, of which there is none, or of a score that others make
    and that their own alerts tell. One that names the children asks for it."""
    names = {ref.name for ref in rule.when.refs}
    return not names.isdisjoint(_OF_ITSELF) and names.isdisjoint(OF_CHILDREN)


async def read(conn: AsyncConnection, facts: Facts, rows: Sequence[AccountRow]) -> Lineage:
    """Of a batch. An account that was only ever named as a parent, and is no longer, has ended: nobody knows of it."""
    named = {
        account_id: parent
        for account_id, parent in zip(facts.account_ids, facts.texts[PARENT].tolist(), strict=True)
        if parent
    }
    below = roll_up(facts.children, len(facts))
    for place in np.flatnonzero(~below.named).tolist():
        if rows[place].version == NO_FACTS:
            facts.texts["status"][place] = "ended"
    return Lineage(
        links=await hierarchy_rows.read_links(conn, named) if named else {},
        below=below,
        umbrella=umbrellas(facts.children, facts.last_login_at, facts.last_activity_at),
    )


def columns(batch: Batch, at_risk: Any) -> list[dict[str, Any]]:
    """Of each account's health row what is about parents and children; ``at_risk`` (A,) is its MRR at risk."""
    facts, scores, below = batch.facts, batch.scores, batch.lineage.below
    found = []
    for place, account_id in enumerate(facts.account_ids):
        link = batch.lineage.links.get(account_id)
        under = below.below(place)
        told = None
        if link is not None and link.followed is not None:
            own = Own(
                account_id=account_id,
                name=facts.texts["name"][place],
                status=facts.texts["status"][place],
                score=_known(scores.score[place]),
                band=scores.band[place],
                mrr=_known(facts.numbers["mrr"][place]),
                at_risk=_known(at_risk[place]),
                currency=facts.texts["currency"][place],
                incomplete=bool(scores.incomplete[place]),
                umbrella=bool(batch.lineage.umbrella[place]),
                card=scores.scorecard[place],
            )
            told = as_child(own, under)
        found.append(
            {
                "parent_id": None if link is None else link.parent_id,
                "parent_problem": None if link is None else link.problem,
                "as_child": told,
                "rollup": under,
            }
        )
    return found


async def tell_parents(conn: AsyncConnection, batch: Batch, told: Sequence[Mapping[str, Any]]) -> None:
    """Touches the parents, those of before and those of now, of whoever tells something else than before.

    A round of re-evaluation goes by the accounts that have facts: whoever is only known as a parent is brought along by
    its children.
    """
    parents: set[str] = set()
    along: set[str] = set()
    for account_id, row, now in zip(batch.facts.account_ids, batch.rows, told, strict=True):
        before = (row.parent_id, row.parent_problem, row.as_child)
        if before != (now["parent_id"], now["parent_problem"], now["as_child"]):
            parents |= {row.parent_id, now["parent_id"]} - {account_id, None}
        elif now["as_child"] is not None and row.round != batch.context.round:
            along.add(now["parent_id"])
    if along - parents:
        parents |= await hierarchy_rows.without_facts(conn, along - parents, batch.context.round)
    await hierarchy_rows.touch(conn, parents, batch.now)


def _known(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
