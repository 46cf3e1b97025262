"""The training itself: one step, many steps, and everything that watches over them. Knows no Ray.

points       what a run says of itself, step by step and in the end
classes      which of them are learned
group        the workers of one training: alone, or over torch.distributed
chance       dropout and crops as a pure function of seed, step and worker
micro        how much goes through the model at once; less where memory runs out
step         one gradient of one batch, by one pass or by gradient caching
schedule     how long, and how fast: warm-up, cosine, minutes
optimiser    AdamW over what learns, its state by name
evaluate     kNN accuracy of rows that are not learned from
watch        collapse and divergence, said
noisy        labels that the training does not believe
checkpoints  last and best on the disk, whole or not at all
log          points as CSV and for TensorBoard
train        the steps of one phase
work         a whole run: base, data, pre-training, training
held         one process in a run's folder, and folders that nobody needs any more
"""
