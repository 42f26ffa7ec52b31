"""``webhooks.yaml``: which webhooks there are, how their calls are signed, and what they become. Checked as a whole.

Pure but for reading the file. Secrets are never in it: it names the environment variables that hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from consumers.webhooks import mapping as mapping_of
from consumers.webhooks.drafts import Drafts, Path, compiled
from consumers.webhooks.mapping import Rule
from consumers.webhooks.options import Options
from consumers.webhooks.presets import PRESETS
from consumers.webhooks.signatures import Signature, problem_of
from health.yamlfile import FileError, FileProblem, Place, YamlFile, read

WEBHOOKS_FILE: Final = "webhooks.yaml"
PresetName = Literal["stripe", "zendesk", "intercom", "typeform", "surveymonkey", "hubspot", "salesforce"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,200}$")]


def _scheme(value: Any) -> Any:
    return {"scheme": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Webhook(BaseModel):
    """One tool that calls us."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: PresetName | None = Field(default=None, description="A tool that is understood; else give `mapping`")
    options: dict[str, Any] = Field(default={}, description="Of the preset")
    mapping: list[Rule] = Field(default=[], description="One's own rules, instead of a preset")
    signature: Annotated[Signature, BeforeValidator(_scheme)] | None = Field(
        default=None, description="Needed without a preset; a name alone is the scheme"
    )
    secret_env: Annotated[list[Variable], BeforeValidator(_listed)] = Field(
        default=[], max_length=5, description="Environment variables with the secret; several while it is changed"
    )
    account: str | None = Field(default=None, description="JMESPath to the account's id")
    user: str | None = Field(default=None, description="JMESPath to a user's id, by which the account is found")
    without_account: Literal["keep", "ignore"] = Field(
        default="keep", description="What neither names becomes a dead letter, or is ignored"
    )
    url: str | None = Field(
        default=None, pattern=r"^https?://", description="The address that the tool calls, where it is signed too"
    )

    @model_validator(mode="after")
    def _one_meaning(self) -> Webhook:
        if (self.preset is None) == (not self.mapping):
            raise ValueError("give either preset or mapping")
        return self


class WebhooksFile(BaseModel):
    """A webhooks file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhooks: dict[Name, Webhook] = Field(description="By name: their address is /ingest/webhooks/<name>")


KEYS: Final = (
    frozenset(name for part in (WebhooksFile, Webhook, Signature) for name in part.model_fields) | mapping_of.KEYS
)


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A webhook, ready to be called. ``name`` is the `source` of its events."""

    name: str
    signature: Signature
    secret_env: tuple[str, ...]
    url: str | None
    parts: Callable[[Any], list[Any]]
    drafts: Callable[[Any], Drafts]
    account: Path | None
    user: Path | None
    ignores_strangers: bool


Webhooks = Mapping[str, Hook]


def load(path: FilePath) -> Webhooks:
    """The webhooks of a file; none when there is no such file. Raises FileError with every fault."""
    if not path.exists():
        return {}
    file = read(path)
    found = file.validate(WebhooksFile, KEYS)
    problems = [problem for name, hook in found.webhooks.items() for problem in _problems(file, name, hook)]
    if problems:
        raise FileError(problems)
    return {name: _hook(name, webhook) for name, webhook in found.webhooks.items()}


def _hook(name: str, webhook: Webhook) -> Hook:
    preset = PRESETS.get(webhook.preset or "")
    account, user = webhook.account, webhook.user
    if preset is None:
        assert webhook.signature is not None
        drafts = mapping_of.drafts(webhook.mapping)
    else:
        options = preset.options.model_validate(webhook.options)
        of_preset = preset.drafts

        def drafts(part: Any) -> Drafts:
            return of_preset(part, options)

        # Who says where the account is does not want it looked for elsewhere.
        account = webhook.account or preset.account
        user = webhook.user or (preset.user if webhook.account is None else None)
    signature = webhook.signature or (preset.signature if preset else None)
    assert signature is not None
    return Hook(
        name=name,
        signature=signature,
        secret_env=tuple(webhook.secret_env),
        url=webhook.url,
        parts=preset.parts if preset else lambda document: [document],
        drafts=drafts,
        account=None if account is None else compiled(account),
        user=None if user is None else compiled(user),
        ignores_strangers=webhook.without_account == "ignore",
    )


def _problems(file: YamlFile, name: str, webhook: Webhook) -> Iterator[FileProblem]:
    place: Place = ("webhooks", name)
    if webhook.signature is None and webhook.preset is None:
        yield file.problem(place, "signature is missing: say how calls are signed, or `signature: none`")
    if webhook.signature is not None and (wrong := problem_of(webhook.signature)) is not None:
        yield file.problem((*place, "signature", wrong[0]), wrong[1])
    unsigned = webhook.signature is not None and webhook.signature.scheme == "none"
    if unsigned and webhook.secret_env:
        yield file.problem((*place, "secret_env"), "without a signature there is no secret; remove secret_env")
    if not unsigned and not webhook.secret_env:
        yield file.problem(place, "secret_env is missing: name the environment variable that holds the secret")
    yield from _path_problems(file, place, webhook)
    for number, rule in enumerate(webhook.mapping):
        for within, problem, nearest in mapping_of.faults(rule):
            yield file.problem((*place, "mapping", number, *within), problem, nearest)
        if webhook.account is None and webhook.user is None and not {"account_id", "user_id"} & rule.fields.keys():
            words = "nothing says whose event it is: give account (JMESPath) or fields.account_id"
            yield file.problem((*place, "mapping", number), words)
    if webhook.preset is not None:
        yield from _option_problems(file, (*place, "options"), PRESETS[webhook.preset].options, webhook.options)
    elif webhook.options:
        yield file.problem((*place, "options"), "options are of presets; a mapping has none")


def _path_problems(file: YamlFile, place: Place, webhook: Webhook) -> Iterator[FileProblem]:
    for key, expression in (("account", webhook.account), ("user", webhook.user)):
        if expression is not None:
            try:
                compiled(expression)
            except ValueError as error:
                yield file.problem((*place, key), f"{key} {error}")


def _option_problems(
    file: YamlFile, place: Place, model: type[Options], options: Mapping[str, Any]
) -> Iterator[FileProblem]:
    depth = len(place)
    marks = {where[depth:]: mark for where, mark in file.marks.items() if where[:depth] == place}
    try:
        YamlFile(name=file.name, values=options, marks=marks).validate(model, model.model_fields)
    except FileError as error:
        yield from error.problems


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a webhooks file; committed as rules/webhooks.schema.json."""
    schema = WebhooksFile.model_json_schema()
    definitions = schema["$defs"]
    webhook = definitions["Webhook"]
    for key, short in (("signature", {"$ref": "#/$defs/SchemeName"}), ("secret_env", {"type": "string"})):
        given = webhook["properties"][key]
        long = given.pop("anyOf", None) or [{name: given.pop(name) for name in ("type", "items", "maxItems")}]
        given["anyOf"] = [short, *(part for part in long if part != {"type": "null"})]
        given.pop("default", None)
    definitions["SchemeName"] = {"enum": definitions["Signature"]["properties"]["scheme"]["enum"]}
    conditions = []
    for name, preset in PRESETS.items():
        options = preset.options.model_json_schema()
        options.pop("$defs", None)
        definitions[f"Options_{name}"] = options
        then = {"properties": {"options": {"$ref": f"#/$defs/Options_{name}"}}}
        conditions.append({"if": {"properties": {"preset": {"const": name}}, "required": ["preset"]}, "then": then})
    webhook["allOf"] = conditions
    webhook["oneOf"] = [{"required": ["preset"]}, {"required": ["mapping"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Kizashi webhooks", **schema}
