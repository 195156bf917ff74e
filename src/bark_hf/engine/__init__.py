"""The autoregressive loop over rows that come and go, and its steps: torch's, numba's, a CUDA graph's, in int8.

Knows nothing of text, codebooks or audio: it sees a causal model and the ids that may be sampled."""
