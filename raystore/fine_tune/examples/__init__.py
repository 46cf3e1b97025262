"""What an encoder is fine-tuned on: planned as references, read and tokenised in the process that trains, guarded against leaks.

    spec.py     DataSpec: the references, columns, split and classes of a run; no content in it
    plan.py     plan_data: from paths and column names to a spec; every problem in one error
    reader.py   ItemReader: how a base reads texts and pictures
    read.py     read_sides, read_pool: from a spec to examples in memory, the same in every process
    items.py    stream_items: the texts and files of given rows once more, for encoders
    provable.py   whether a run on these sides can be proven, before it is begun
    types.py    Content, Examples, Sides, Pool
    text.py, pictures.py, augment.py   contents in memory, and their batches
    marks/, leaks.py   what stands on two sides; digest.py names the data that was read

A DataSpec may go anywhere; examples stay in the process that read them and cannot be pickled.
"""
