"""CEL rules that stand beside the field or the model they judge, and go into the CRD's schema from there."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

VALIDATIONS = "x-kubernetes-validations"

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]


@dataclass(frozen=True)
class Rule:
    """A rule that the API server checks; `Annotated[str, Rule(...)]` puts it on a field.

    `expression` sees `self` and, for an update, `oldSelf`: a rule with `oldSelf` is skipped on creation.
    `message` says what to write instead.
    `field_path` points at the culprit when the rule stands on its parent.
    """

    expression: str
    message: str
    field_path: str | None = None
    reason: Reason = "FieldValueInvalid"

    KEYS: ClassVar = ("rule", "message", "reason", "fieldPath")

    def schema(self) -> dict[str, str]:
        """The rule as the CRD spells it."""
        path = {"fieldPath": self.field_path} if self.field_path else {}
        return {"rule": self.expression, "message": self.message, "reason": self.reason, **path}

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Append the rule to the field's schema."""
        schema = handler(core)
        schema[VALIDATIONS] = [*schema.get(VALIDATIONS, []), self.schema()]
        return schema


def rules(*several: Rule) -> dict[str, Any]:
    """Rules on a whole model, as its `json_schema_extra`."""
    return {VALIDATIONS: [rule.schema() for rule in several]}


def immutable(message: str) -> Rule:
    """The field keeps its first value; only for fields that always have one (required, or with a default).

    The API server skips a transition rule when the field comes or goes: `same` is for those.
    """
    return Rule("self == oldSelf", message, reason="FieldValueForbidden")


def immutable_but(model: type[BaseModel], changing: str, message: str) -> Rule:
    """All fields of the model keep their first value, except for that one."""
    kept = (info.alias or name for name, info in model.model_fields.items() if name != changing)
    return Rule(" && ".join(map(same, kept)), message, reason="FieldValueForbidden")


def same(field: str, parent: str = "") -> str:
    """Expression: an optional field (in `parent`, such as `.status`) is as before, or absent as before.

    Not `self.?size == oldSelf.?size`: the API server estimates an optional's cost as unbounded.
    """
    new, old = f"self{parent}.{field}", f"oldSelf{parent}.{field}"
    return f"(has({new}) ? has({old}) && {new} == {old} : !has({old}))"
