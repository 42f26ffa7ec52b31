"""Answers to Typeform's and SurveyMonkey's surveys: NPS and CSAT. Pure.

Typeform sends the answers. SurveyMonkey only says that there are some: what can be taken from it are the details of a
response, as its API gives them (``GET /v3/surveys/{id}/responses/{id}/details``) to whoever forwards them here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from consumers.webhooks.drafts import Draft, Drafts, Ignored, at, long_text, need, number_of, text_of, trimmed
from consumers.webhooks.options import Options, SurveyOptions

TYPEFORM_ACCOUNT: Final = "form_response.hidden.account_id"
TYPEFORM_USER: Final = "form_response.hidden.user_id"
SURVEYMONKEY_ACCOUNT: Final = "custom_variables.account_id"
SURVEYMONKEY_USER: Final = "custom_variables.user_id"


def typeform(document: Any, options: Options) -> Drafts:
    """Of one response, complete or not."""
    assert isinstance(options, SurveyOptions)
    kind = need(document, "event_type")
    if kind != "form_response":
        return Ignored(f"{kind} is not asked for")
    response = need(document, "form_response")
    answers = at(response, "answers") or []
    common = {
        "timestamp": text_of(need(response, "submitted_at"), "form_response.submitted_at"),
        "comment": long_text(_typeform_comment(answers, options)),
    }
    token = text_of(need(response, "token"), "form_response.token")
    scores = {
        "nps": _typeform_score(answers, options.nps, "nps", "nps"),
        "csat": _typeform_score(answers, options.csat, "csat", None),
    }
    return _surveys(scores, token, common)


def _typeform_score(answers: Any, wanted: str | None, usual: str, of_type: str | None) -> Any:
    for answer in answers:
        field = at(answer, "field")
        names = {at(field, "ref"), at(field, "id")}
        fits = wanted in names if wanted is not None else usual in names or at(field, "type") == of_type is not None
        if fits:
            return at(answer, "number")
    return None


def _typeform_comment(answers: Any, options: SurveyOptions) -> Any:
    for answer in answers:
        field = at(answer, "field")
        names = {at(field, "ref"), at(field, "id")}
        if options.comment in names if options.comment is not None else at(field, "type") == "long_text":
            return at(answer, "text")
    return None


def surveymonkey(document: Any, options: Options) -> Drafts:
    """Of the details of one response; its notification tells nothing that could be kept."""
    assert isinstance(options, SurveyOptions)
    if at(document, "event_type") is not None:
        return Ignored("SurveyMonkey's notifications carry no answers")
    status = at(document, "response_status")
    if status not in {None, "completed"}:
        return Ignored(f"the response is {status}")
    comment = None if options.comment is None else next(_monkey_answers(document, options.comment), None)
    common = {
        "timestamp": text_of(need(document, "date_modified"), "date_modified"),
        "comment": long_text(at(comment, "text") or at(comment, "simple_text")),
    }
    scores = {
        kind: None if question is None else _monkey_score(document, question)
        for kind, question in (("nps", options.nps), ("csat", options.csat))
    }
    return _surveys(scores, text_of(need(document, "id"), "id"), common)


def _monkey_answers(document: Any, question: str) -> Iterator[Any]:
    for page in at(document, "pages") or []:
        for found in at(page, "questions") or []:
            if str(at(found, "id")) == question:
                yield from at(found, "answers") or []


def _monkey_score(document: Any, question: str) -> Any:
    for answer in _monkey_answers(document, question):
        for said in (at(answer, "choice_metadata", "weight"), at(answer, "simple_text"), at(answer, "text")):
            if said is not None:
                return said
    return None


def _surveys(scores: dict[str, Any], response: str, common: Draft) -> Drafts:
    drafts = [
        trimmed({
            **common, "kind": "survey", "event_id": f"{response}:{kind}", "survey_id": f"{response}:{kind}",
            "survey": kind, "score": number_of(score, f"the {kind} answer"),
        })
        for kind, score in scores.items()
        if score is not None
    ]  # fmt: skip
    return drafts or Ignored("no answer to a question of NPS or CSAT")
