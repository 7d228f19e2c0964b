"""The public PTransforms: each takes and gives Arrow record batches, and can be used alone."""
