"""What readers and writers of Pub/Sub have in common."""
