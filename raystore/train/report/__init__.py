"""What a head is worth: figures, curves and intervals, as text, HTML and JSON."""
