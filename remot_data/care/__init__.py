"""Looking after a store: verify, repair, compact, compare, doctor."""
