"""Exports for phones, and the runtime that speaks with them."""
