"""What is watched while serving: metrics, drift, golden vectors, JSON logs, traces, and the status that people read."""
