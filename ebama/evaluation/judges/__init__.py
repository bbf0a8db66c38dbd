"""What scores pictures: the judges of the miniature's world, CLIP and BLIP."""
