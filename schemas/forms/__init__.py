"""A contract in the forms that others have: BigQuery, Iceberg, JSON Schema, SQL, msgspec."""
