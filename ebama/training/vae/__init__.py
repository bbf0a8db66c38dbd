"""The miniature's VAE: a small one of factor 4 first, then the one that ships."""
