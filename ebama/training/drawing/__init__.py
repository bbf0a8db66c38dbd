"""The pictures that the miniature learns from: drawings, recoloured sprites, captioned scenes."""
