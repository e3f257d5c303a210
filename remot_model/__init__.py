"""REMOT: trained from windows of `remot_data.stream`, run on one source image and a driving video."""
