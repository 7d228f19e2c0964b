"""Contracts made of what others have: Avro, JSON Schema, SQL, BigQuery, Parquet, and samples."""
