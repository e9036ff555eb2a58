"""The automatic choice between an explicit and a stiff method."""
