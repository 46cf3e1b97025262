"""Better encoders from labels: contrastive fine-tuning, its proof, and the record of each run."""
