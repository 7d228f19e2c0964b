"""JSON records: decoded strictly and fast, and what is wrong with those that do not fit."""
