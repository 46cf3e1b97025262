"""What tells that two items are the same or nearly so, without an encoder: sketches of texts, perceptual hashes of pictures.

Marks are made while a row is read and live as long as the reading; they hold hashes, and reach no disk.
"""
