"""What Luthier promises, checked on the user's own config and machine; one step of it by hand."""
