"""SQL steps: what a statement may be, and how it is run over batches."""
