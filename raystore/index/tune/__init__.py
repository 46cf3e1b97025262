"""Which kind of index, and how many probes: measured on the collection's own vectors, chosen within a budget, checked again later.

Reads from left to right: table (what was measured, as records), measure (recall, latency, throughput of anything that
answers queries), choose (within a budget, or the nearest that can), run (build each kind over a sample and measure it),
check (the live index against an exact scan). Only run and check know collections and shards.
"""
