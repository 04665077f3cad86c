"""Operations on tensors, in plain torch: the CPU backend, and the reference for faster twins.

They know tensors only: no sequences, no pages' owners, no model.
"""
