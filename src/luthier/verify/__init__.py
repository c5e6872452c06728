"""What Luthier promises, checked on the user's own config and machine."""
