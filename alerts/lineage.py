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
from health.arrays import Bools, Floats
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


@dataclass(frozen=True, kw_only=True)
class Told:
    """Of each account's health row what is about parents and children, column by column."""

    parent_id: list[str | None]
    parent_problem: list[str | None]
    as_child: list[dict[str, Any] | None]
    rollup: list[dict[str, Any] | None]


def columns(batch: Batch, at_risk: Floats) -> Told:
    """``at_risk`` (A,) is each account's MRR at risk. Most accounts have neither parent nor children."""
    size, links, below = len(batch.facts), batch.lineage.links, batch.lineage.below
    none: list[None] = [None] * size
    told = Told(parent_id=[*none], parent_problem=[*none], as_child=[*none], rollup=[*none])
    for place in np.flatnonzero(below.named).tolist():
        told.rollup[place] = below.below(place)
    for place, account_id in enumerate(batch.facts.account_ids if links else ()):
        link = links.get(account_id)
        if link is not None:
            told.parent_id[place], told.parent_problem[place] = link.parent_id, link.problem
            if link.followed is not None:
                told.as_child[place] = as_child(_own(batch, at_risk, place), told.rollup[place])
    return told


def _own(batch: Batch, at_risk: Floats, place: int) -> Own:
    facts, scores = batch.facts, batch.scores
    return Own(
        account_id=facts.account_ids[place],
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


async def tell_parents(conn: AsyncConnection, batch: Batch, told: Told) -> None:
    """Touches the parents, those of before and those of now, of whoever tells something else than before.

    A round of re-evaluation goes by the accounts that have facts: whoever is only known as a parent is brought along by
    its children.
    """
    parents: set[str] = set()
    along: set[str] = set()
    for place, row in enumerate(batch.rows):
        parent_id, says = told.parent_id[place], told.as_child[place]
        if row.parent_id is None and parent_id is None:
            continue
        if (row.parent_id, row.parent_problem, row.as_child) != (parent_id, told.parent_problem[place], says):
            itself = batch.facts.account_ids[place]
            parents.update(parent for parent in (row.parent_id, parent_id) if parent is not None and parent != itself)
        elif says is not None and parent_id is not None and row.round != batch.context.round:
            along.add(parent_id)
    if along - parents:
        parents |= await hierarchy_rows.without_facts(conn, along - parents, batch.context.round)
    await hierarchy_rows.touch(conn, parents, batch.now)


def _known(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
