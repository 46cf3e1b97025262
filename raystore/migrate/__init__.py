"""Changing encoders: from one space to another, with the raw data or without it."""
