"""Windows out of stores, in an order that depends on seed, epoch and index alone."""
