"""NLP functions compiled over all elements of a group."""
