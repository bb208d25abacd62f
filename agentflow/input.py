"""What a person is asked for: `RunInput`, under Prefect's import path. Any pydantic model will do as well."""

from __future__ import annotations

from copy import copy
from typing import Any, ClassVar, Self

from pydantic import BaseModel, create_model

from agentflow.errors import DefinitionError

__all__ = ["RunInput"]


class RunInput(BaseModel):
    """The answer of a person, as a model; what pauses for it is `agentflow.flow_runs.pause_flow_run`."""

    #: Told to the person who is asked.
    run_input_description: ClassVar[str | None] = None
    #: The model of which this one only sets other defaults.
    run_input_origin: ClassVar[type[RunInput] | None] = None

    @classmethod
    def with_initial_data(cls, description: str | None = None, **initial_data: Any) -> type[Self]:
        """The same model with a question, and with what stands in the form before the person changes it.

        Raises `DefinitionError` for a field that there is not.
        """
        fields: dict[str, Any] = {}
        for name, value in initial_data.items():
            known = cls.model_fields.get(name)
            if known is None:
                message = (
                    f"{cls.__name__} has no field {name!r}; it has: {', '.join(cls.model_fields) or 'none'}"
                )
                raise DefinitionError(message)
            field = copy(known)
            field.default, field.default_factory = value, None
            fields[name] = (field.annotation, field)
        made = create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **fields)
        made.run_input_description = description if description is not None else cls.run_input_description
        made.run_input_origin = cls.run_input_origin or cls
        return made

    def as_declared(self) -> RunInput:
        """The same answer, of the class that the code declares: one with other defaults could not be read back."""
        origin = self.run_input_origin
        return self if origin is None else origin.model_construct(self.model_fields_set, **dict(self))
