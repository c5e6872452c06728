"""The texts of the glossary, as data; `luthier.config.glossary` finds them."""
