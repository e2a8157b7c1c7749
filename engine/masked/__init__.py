"""Direct explanations by hiding: occlusion, RISE, segments, and the engine under them."""
