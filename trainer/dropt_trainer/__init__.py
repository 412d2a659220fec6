"""Trainer of dropt: sites, masks and fused packs for PyTorch modules."""
