"""What a factorization of one run computes, as a graph that engines read: traced once, run over lanes or written as a kernel."""
