"""Packs: many trials trained as one model on one device. Tensors only: no HTTP, no clock.

Shapes are written with one legend throughout the trainer:

- `K` slots of a pack, `n` of them filled,
- `B` examples, `T` steps of a sequence, `D` features, `C` classes,
- `S` columns of rates: one per site and kind,
- `P` trainable parameters of one trial, in one row.
"""
