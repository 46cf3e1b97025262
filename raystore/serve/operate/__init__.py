"""What operators do with deployments: report on shadows, promote, roll back, review, check a file before it runs.

promote.py   another head answers, or the one before again       check.py     what a file would run, and what does not fit
operations.py   reports and the review queue, in the process that keeps predictions
"""
