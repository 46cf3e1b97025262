"""Business rules of a deployment: before the head, after it, and in shadow. What a Python hook takes and returns is here."""

from raystore.serve.rules.check import problems
from raystore.serve.rules.engine import Rules
from raystore.serve.rules.said import Passed, Refuse, Route, Said

__all__ = ["Passed", "Refuse", "Route", "Rules", "Said", "problems"]
