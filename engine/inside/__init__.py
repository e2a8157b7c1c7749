"""Indirect explanations: taps, feature maps, filters, patches, DeconvNet, inversion."""
