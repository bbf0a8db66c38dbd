"""The judges of images: those of the miniature's world, CLIP and BLIP."""
