"""Whether a fine-tuned encoder is better, on rows that its training did not see: measured, shown, and the gate before it is live."""
