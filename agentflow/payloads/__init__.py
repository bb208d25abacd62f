"""Values to bytes and back: codec, digests, the installation's key. Knows nothing of runs or storage."""
