"""A component: a frozen set of hyper-parameters with a name, a version and an identity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic.json_schema import GenerateJsonSchema

from qpatchbench.labels import checked_label
from qpatchbench.origin import THIS_PROCESS, is_outside, source_hash
from qpatchbench.registry import Registry
from qpatchbench.types import Announced, Written

ComponentT = TypeVar("ComponentT", bound="Component")

# Class of a component, as `identity` names it -> the version that keys are made for instead of its own.
_VERSIONS: ContextVar[Mapping[str, int]] = ContextVar("versions", default={})  # noqa: B039 (never changed)


class Component(BaseModel):
    """Base of attacks, defenses, quantizers, models, datasets and preprocessors.

    A component is its fields: its repr, its YAML form, its documentation and its cache key all come
    from them.

    Attributes:
        version: bumped when a change of code alters numbers at equal fields. A component from outside is identified by
            its source as well: any edit of it, a comment included, redoes what depends on it.
        reference: paper of a component from outside; those of the built-ins stand in their catalogue.
        trial: field values at which it can be tried on tiny images within seconds, for the conformance checks.
        expected_failures: names of conformance checks that cannot hold, and why.
        files: fields that name a file; in a suite they are relative to the suite's folder.
        runs_code: whether one of these files is code, which runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    version: ClassVar[int] = 1
    trial: ClassVar[Mapping[str, Any]] = {}
    expected_failures: ClassVar[Mapping[str, str]] = {}
    reference: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()
    runs_code: ClassVar[bool] = False

    name: str = Field(description="name under which the component is registered")
    label: Annotated[str, AfterValidator(checked_label)] | None = Field(
        default=None, min_length=1, description="name shown in results, where one component is used twice"
    )

    @property
    def title(self) -> str:
        """What results call this component."""
        return self.label or self.name

    @property
    def _code(self) -> list[str]:
        """Fields that hold something to call."""
        return [name for name in type(self).model_fields if callable(getattr(self, name))]

    @property
    def unidentified(self) -> str:
        """Why nothing tells it from another component of the same name and fields; "" where something does."""
        cls = type(self)
        if not is_outside(cls):
            return ""
        if not source_hash(cls):
            return f"no file holds the source of {cls.__module__}:{cls.__qualname__}"
        return f"the field {self._code[0]} holds code, which no result can name" if self._code else ""

    @property
    def code_beside(self) -> tuple[str, str]:
        """The source file that a field names, where `runs_code`, and its SHA-256; else ("", "")."""
        return "", ""

    def identity(self) -> dict[str, Any]:
        """Everything that decides what this component computes, as JSON-ready data."""
        cls = type(self)
        name = f"{cls.__module__}:{cls.__qualname__}"
        return {
            "class": name,
            "version": _VERSIONS.get().get(name, self.version),
            # The space keeps it apart from any field.
            **({"source hash": source_hash(cls)} if is_outside(cls) else {}),
            **({"known to": THIS_PROCESS} if self.unidentified else {}),
            **self.model_dump(mode="json", exclude={"label"}),
        }

    @model_serializer(mode="wrap")
    def _with_named_code(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Code that a field holds goes by its name."""
        code = {name: getattr(getattr(self, name), "__qualname__", "code") for name in self._code}
        return dict(handler(self.model_copy(update=code) if code else self))

    def misfits(self, known: Announced) -> Iterator[tuple[str, str]]:
        """Why it cannot work on such images or on so many classes: (field, or "" for none; "expected .., found ..").

        A suite is checked with this before anything is read, so that nothing is computed in vain.
        """
        yield from ()


@contextmanager
def versions_of(recorded: Mapping[str, int]) -> Iterator[None]:
    """Identities inside are those of earlier versions; what a component computes is that of today's all the same.

    Args:
        recorded: class, as `identity` names it -> version.
    """
    token = _VERSIONS.set(recorded)
    try:
        yield
    finally:
        _VERSIONS.reset(token)


class PlainDefaults(GenerateJsonSchema):
    """JSON schema whose defaults are written as in a suite: 4%, not the parts of a size."""

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 (any default)
        """A default as JSON-ready data."""
        return dft.plain() if isinstance(dft, Written) else super().encode_default(dft)


def create(registry: Registry, fields: dict[str, Any]) -> Any:  # noqa: ANN401 (the class is known only at run time)
    """Build the component that `fields["name"]` names.

    Raises:
        UnknownNameError: no such component.
        pydantic.ValidationError: a field is unknown, missing or out of range.
    """
    return registry.get(fields["name"])(**fields)
