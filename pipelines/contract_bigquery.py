"""The schema of a table that is in BigQuery, for ``millstream contract import``."""

from __future__ import annotations

from ..schemas.imports.bigquery import of_fields
from ..schemas.imports.imported import CannotImport, Imported
from ..transforms.write.bigquery.jobs import connected, explained
from ..transforms.write.bigquery.tables import find
from ..transforms.write.errors import DestinationError

_PARTS = 3


def table_schema(name: str) -> Imported:
    """The contract of a table's rows.

    Args:
        name: ``PROJECT.DATASET.TABLE``.

    Raises:
        CannotImport: there is no such table, or we may not see it.
        Unavailable: BigQuery does not answer.
    """
    place = f"bigquery:{name}"
    parts = name.split(".")
    if len(parts) != _PARTS or not all(parts):
        raise CannotImport(f"{place}: write bigquery:PROJECT.DATASET.TABLE")
    try:
        with explained(place), connected(parts[0]) as client:
            table = find(client, name)
    except DestinationError as error:
        raise CannotImport(str(error)) from error
    if table is None:
        raise CannotImport(f"{place}: there is no such table")
    found = of_fields([field.to_api_repr() for field in table.schema], place, parts[-1])
    found.description = table.description
    return found
