"""COCO's figures, FashionFail's weighted means, and counts."""
