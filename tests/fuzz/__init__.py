"""Mutation fuzzing of the decoders: every mutated file must give an image or an InputError, within limits of time and memory."""
