"""Between record batches and Beam's own rows: PCollections with a schema.

What has a schema is understood by ``Select``, ``GroupBy("field")``, ``SqlTransform``, dataframes,
transforms of other languages, ``beam.io.WriteToParquet`` and Beam YAML::

    valid.records | ToSchemaRows(contract) | beam.GroupBy("page").aggregate_field(...)
    rows | FromSchemaRows(contract) | Validate(contract)

==================  ===========================================  ==================================
contract, Arrow     Beam's schema                                 values in rows
==================  ===========================================  ==================================
string, json        STRING                                        ``str``
integer             INT16, INT32, INT64: the least that holds     ``int``
                    all of its values
number              FLOAT, DOUBLE                                 ``float``
decimal             decimal:v1                                    ``decimal.Decimal``
boolean, binary     BOOLEAN, BYTES                                ``bool``, ``bytes``
date                date:v1                                       ``datetime.date``
timestamp           micros_instant:v1                             ``apache_beam``'s ``Timestamp``
time                STRING                                        ISO 8601: ``12:00:00.000001``
object, array, map  ROW, ARRAY, MAP                               a named tuple, ``list``, ``dict``
==================  ===========================================  ==================================

Three of them go round a mistake of Beam 2.77's coders: INT8 (``BYTE``) takes no negative numbers,
times of day lose their microseconds, and decimals of more than 28 digits are rounded when they are
decoded: such a value, rare in fields that could hold it, fails the pipeline. What has no place in a
schema is refused where the pipeline is built: ``uint64``, nanoseconds, time stamps without a zone,
and names that Python has no room for, such as ``_id``, ``class`` and ``user-id``.

A decimal's digits are said beside the schema (an option of the field), and get lost where a
transform makes new rows. Without them, and without a contract, it is ``decimal(38, 9)``; a value
that does not fit fails the pipeline.

Dataframes hold a part of these types only (Beam's extra ``dataframe``): others are objects there,
NaN and null are one, and rows that come back need the contract.
"""

from .from_rows import FromSchemaRows
from .to_rows import ToSchemaRows
from .types import TIMESTAMP, SchemaRowsError

__all__ = ["TIMESTAMP", "FromSchemaRows", "SchemaRowsError", "ToSchemaRows"]
