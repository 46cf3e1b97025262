"""The model that learns: a base opened for training, which of its layers learn, and the folder that it is saved to."""
