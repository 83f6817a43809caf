"""The forms in which judgements go out and come in, a file each: the kit's own, Argilla's, Label Studio's."""
