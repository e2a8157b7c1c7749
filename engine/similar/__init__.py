"""Pictures alike: embeddings, stores, neighbours and maps."""
