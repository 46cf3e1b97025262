"""A classifier for free: the vote of the labelled rows that lie nearest, with nothing fitted but one temperature.

vote.py        cosines and labels to scores of classes; kNN heads vote by the same lines
zero_shot.py   what a class's description says, before there are labels and while there are few
calibrate.py   how far the votes can be believed, and what is far from everything: by rows that are left out
labels.py      which rows have which label, as the collection and the label table move
voters.py      the arguments                         asked.py    what the index is asked, and answers
classifier.py  asks, votes, abstains                 result.py   the answer and its evidence
register.py    such a classifier as a head: by name, in numbered versions, deployable
"""
