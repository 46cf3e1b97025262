"""Predictions that people look at, and the labels they give."""
