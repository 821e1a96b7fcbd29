"""What a reply says is read here, in words alone: pure, and sure or not at all."""
