"""The steps, one file each, in the order their `down_revision` gives; they are never changed."""
