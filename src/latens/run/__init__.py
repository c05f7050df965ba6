"""The run directory: what a training leaves behind, and how it is read back."""
