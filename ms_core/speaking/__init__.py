"""A text as people write it, to sound: marks, controls, parts and their pauses, captions; whatever computes."""
