"""Image files in, results out: decoded, prepared, streamed; written whole or not at all."""
