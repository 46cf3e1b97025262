"""Serving: one orchestrator behind HTTP, on Ray Serve. `spec` says what is served, `deploy` starts it."""
