"""Absl binaries: they parse flags and gin and call one function."""
