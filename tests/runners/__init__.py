"""Task runners of clusters, tested on real local ones."""
