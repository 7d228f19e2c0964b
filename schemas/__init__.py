"""What a record must be: contracts, types, rules and the formats of all that is stored."""
