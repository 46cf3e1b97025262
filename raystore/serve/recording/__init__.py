"""What happens after an answer, in a process of its own: shadows, kept predictions, drift.

seen.py     what a replica tells of a request            seal.py    content on its way there, encrypted
recorder.py takes what it is told, and writes it down    shadow.py  a head, or an encoder and its head, that is asked too
"""
