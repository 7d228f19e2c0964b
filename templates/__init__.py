"""What is deployed: templates, manifests, images."""
