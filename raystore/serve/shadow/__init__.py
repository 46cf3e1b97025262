"""Heads beside the live head: what is reported of them, and what lets one be promoted."""
