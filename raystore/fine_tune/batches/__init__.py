"""Which rows meet in a batch: the choice of classes and rows, the cut into micro-batches and workers' shares. Pure NumPy.

rounds.py      classes in turns, each as often as it shall be            order.py   which of them stand together in a turn
sampler.py     a batch of rows by (seed, step): the door of this folder  batch.py   what it returns; a worker's share
micro.py       a batch cut by length                                     mine.py    hard negatives, confused classes
"""

from raystore.fine_tune.batches.batch import Batch, share
from raystore.fine_tune.batches.micro import chunks
from raystore.fine_tune.batches.sampler import Sampler, make_sampler, make_unlabelled_sampler

__all__ = ["Batch", "Sampler", "chunks", "make_sampler", "make_unlabelled_sampler", "share"]
