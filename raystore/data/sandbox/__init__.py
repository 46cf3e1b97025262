"""SQL of people who are not trusted: a disposable process that reads one SELECT and little else."""
