"""The closed list of reasons for which a record becomes a dead letter.

Codes are stable: dashboards and replays select by them. A new code raises ``VERSION``; a code is
never renamed or given another meaning.
"""

from enum import StrEnum

VERSION = 4


class Code(StrEnum):
    """Why a record was refused. The value is what is stored."""

    MALFORMED = "MALFORMED"
    """Not the format at all: no JSON object, trailing bytes, nested more than 500 levels deep, a
    whole number of more than 4300 digits; a CSV record of too few or too many cells, a stray
    quote."""
    ENCODING = "ENCODING"
    """Bytes that are not UTF-8, anywhere in the record."""
    OVERSIZE = "OVERSIZE"
    """Longer than ``max_record_bytes``. The payload is left out; the position names its bytes."""
    UNREADABLE = "UNREADABLE"
    """A region that could not be read: a truncated or corrupt compressed stream, an Avro block, a
    Parquet row group, a CSV file by whose header nothing can be read. The position names its bytes;
    payload: the bytes of the record that was cut, if any."""
    REQUIRED = "REQUIRED"
    """Missing or null, and required."""
    TYPE = "TYPE"
    """Of another JSON type: a string where a number is due, 3.7 where an integer is."""
    FORMAT = "FORMAT"
    """A string that is not what its type or format says: no date, no UUID, no offset."""
    RANGE = "RANGE"
    """Below the minimum, above the maximum, or outside the type's own range."""
    PRECISION = "PRECISION"
    """A decimal with more digits than its precision and scale hold."""
    MULTIPLE_OF = "MULTIPLE_OF"
    """Not a multiple of the number that the contract names."""
    LENGTH = "LENGTH"
    """A string with too few or too many characters."""
    PATTERN = "PATTERN"
    """Does not match the pattern."""
    ENUM = "ENUM"
    """Not one of the valid values."""
    ITEMS = "ITEMS"
    """An array or object with too few, too many, or (``uniqueItems``) repeated entries."""
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    """A field that the contract does not name, where the job rejects such."""
    STEP = "STEP"
    """A step of the job failed on this record; the message names the exception."""
    DESTINATION = "DESTINATION"
    """The destination refused the row; the message is its own, without the row's values."""
    LATE = "LATE"
    """On time for no window of an aggregate any more: the row of ``late`` names the aggregate. The
    record itself is fine, and is in the output of records."""
    UNMATCHED = "UNMATCHED"
    """Of the record's key a reference, or a service that was asked, knows nothing, where the job
    says ``missing: dead``."""
    SERVICE = "SERVICE"
    """A service could not be asked about the record's key, in as many attempts as the job says."""
