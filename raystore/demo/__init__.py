"""The demo: from raw text to a served prediction, with one command."""
