"""Who comes in, for what, how much of it, and what a refusal looks like. Knows no orchestrator."""
