"""The .gin files, as package data."""
