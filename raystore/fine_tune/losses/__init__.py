"""What fine-tuning minimises. Every loss is a pure function of unit rows and labels; knows no model, file or worker.

base.py        what a loss returns, and which rows are a pair
supcon.py, softmax.py, triplet.py, multi_similarity.py     of pairs of rows
proxy.py       of rows and one learned vector a class: ProxyAnchor, ArcFace
matryoshka.py  leading dimensions that stand alone       distill.py   staying near a teacher
objective.py   a recipe's losses, weighted and summed: the door of this folder
"""

from raystore.fine_tune.losses.base import LossValue
from raystore.fine_tune.losses.objective import Objective, make_objective

__all__ = ["LossValue", "Objective", "make_objective"]
