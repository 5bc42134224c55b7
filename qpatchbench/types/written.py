"""Values that a suite writes as one number or word, and numbers as they are written."""

from __future__ import annotations

from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Written:
    """A value that a suite writes as one number or word; a field of a component may be one."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read what `plain` writes, or such a value.

        Raises:
            ValueError: it is neither.
        """
        raise NotImplementedError

    def plain(self) -> int | str:
        """As a suite writes it."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(cls.plain)
        )


def shortest(number: float) -> str:
    """A number in as few digits as tell it from every other.

    >>> shortest(4.0), shortest(33.333333)
    ('4', '33.333333')
    """
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
