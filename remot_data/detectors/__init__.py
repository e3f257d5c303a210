"""What computes a layer: one file per library, found through `base`."""
