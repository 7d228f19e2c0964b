"""What the outputs of a job are called that are no aggregates."""

RECORDS = "records"
DEAD_LETTERS = "dead_letters"
DUPLICATES = "duplicates"
LATE = "late"
