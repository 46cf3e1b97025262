"""Whether later rows come from where the earlier ones came from."""
