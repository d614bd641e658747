"""Trained optimizers that ship with the package."""
